from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from twinsight_core.index.row_memory import VectorCopy
from twinsight_core.sealing.keyring import Keyring, change_keyring, new_key
from twinsight_server.app import Server
from twinsight_server.config import ServerConfig


@pytest.mark.parametrize(
    ("on_disk", "copy", "encrypted", "warnings"),
    [
        (True, "float32", True, 1),
        (False, "int8", True, 1),
        (False, "float32", True, 0),
        (True, "int8", False, 0),
    ],
)
def test_what_a_keyring_keeps_from_being_done_is_told_before_a_collection_is_opened(
    on_disk: bool, copy: VectorCopy, encrypted: bool, warnings: int, tmp_path: Path
) -> None:
    change_keyring(tmp_path / "keyring.json", lambda _: Keyring(new_key()))
    config = ServerConfig(
        listen="127.0.0.1:0",
        data_dir=tmp_path / "data",
        cache_dir=tmp_path / "cache",
        models="base",
        executor="xla",
        keyring=str(tmp_path / "keyring.json") if encrypted else None,
        vectors_on_disk=on_disk,
        vector_copy=copy,
        drain_s=0.0,
    )
    with capture_logs() as lines:
        Server(config).stop()
    told = [line for line in lines if line["log_level"] == "warning"]
    assert len(told) == warnings
    for line in told:
        assert line["event"].startswith("ignoring vectors_on_disk and vector_copy for encrypted collections: ")
        assert (line["vectors_on_disk"], line["vector_copy"]) == (on_disk, copy)
