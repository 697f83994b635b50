from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from twinsight_core.collections.catalog import Catalog
from twinsight_core.errors import LimitReached
from twinsight_core.host.open_files import OpenFiles
from twinsight_server.access import quotas
from twinsight_server.access.quotas import Quotas


@pytest.fixture
def limits(tmp_path: Path) -> Iterator[Quotas]:
    catalog = Catalog(tmp_path / "data")
    yield Quotas(catalog, collections=0, items=0)
    catalog.close()


def test_no_collection_is_made_of_the_files_that_are_kept_for_connections(
    limits: Quotas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "open_files", lambda: OpenFiles(301, 400))
    with pytest.raises(LimitReached) as refused, limits.creating():
        pytest.fail("it is made")
    assert refused.value.reason == "OPEN_FILES_LIMIT"
    assert refused.value.message == (
        "The server may have 400 files open and keeps 100 of them for connections; the others are in use. Delete a "
        "collection, or raise the server's limit of open files (`ulimit -n`)."
    )


@pytest.mark.parametrize("files", [OpenFiles(300, 400), None])
def test_collections_are_made_while_there_are_files_or_nobody_knows(
    limits: Quotas, files: OpenFiles | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "open_files", lambda: files)
    with limits.creating():
        pass
