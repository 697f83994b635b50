"""What others wrote to the items that `twinsight index` made stays theirs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.cli.conftest import Twinsight
from twinsight_client import KEEP_VECTOR, NewItem
from twinsight_client.testing import FakeClient, MemoryServer

pytestmark = pytest.mark.client


def test_a_file_that_was_touched_keeps_the_labels_of_its_item(
    twinsight: Twinsight, memory: MemoryServer, tmp_path: Path, picture: Callable[[int], bytes]
) -> None:
    for number, name in enumerate(("a.jpg", "b.jpg")):
        (tmp_path / name).write_bytes(picture(number))
    assert twinsight("index", str(tmp_path)).exit_code == 0
    with FakeClient(memory) as client:
        (stored,) = client.get_items("photos", ["a.jpg"]).values()
        labelled = {**stored.metadata, "label": "dress", "size": 1}
        client.upsert("photos", [NewItem("a.jpg", KEEP_VECTOR, labelled)]).values()
        os.utime(tmp_path / "a.jpg", ns=(1, 1))
        assert twinsight("index", str(tmp_path)).exit_code == 0
        (again,) = client.get_items("photos", ["a.jpg"]).values()
    assert again.metadata == {**stored.metadata, "label": "dress", "mtime_ns": 1}
