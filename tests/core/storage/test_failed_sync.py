"""A write whose sync failed is refused, and stays so after a crash."""

import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import numpy as np
import pytest
from benchmarks.torture.interposed import Step, Sync, interposed, io_error

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import StorageFull
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, NewItem
from twinsight_core.storage.store import FILE_NAME, Store

VECTOR = np.ones(4, np.float32)


class Disk:
    """A disk that fails to sync so many times."""

    def __init__(self) -> None:
        self.failures = 0

    def opened(self, file: Path, *, journal: bool) -> None:
        """Nothing."""

    def before(self, step: Step) -> None:
        """Fails."""
        if self.failures and isinstance(step, Sync):
            self.failures -= 1
            raise io_error(apsw.SQLITE_IOERR_FSYNC)


WRITES: tuple[Callable[[Collection], object], ...] = (
    lambda collection: collection.upsert([NewItem("old", VECTOR, {"price": 2}), NewItem("new", VECTOR)]),
    lambda collection: collection.delete(["old"]),
)


@pytest.mark.parametrize("write", WRITES)
def test_what_was_refused_for_a_failed_sync_is_not_there_after_a_crash(
    tmp_path: Path, write: Callable[[Collection], object]
) -> None:
    disk, folder = Disk(), tmp_path / "a"
    with interposed(disk) as vfs:
        folder.mkdir()
        Store.create(folder / FILE_NAME, CollectionSpec("a", 4, Metric.COSINE))
        collection = Collection(folder, CollectionOptions(vfs=vfs))
        collection.upsert([NewItem("old", VECTOR, {"price": 1})])
        disk.failures = 1
        with pytest.raises(StorageFull) as refused:
            write(collection)
        assert refused.value.reason == "DISK_WRITE_FAILED"
        # As a kill leaves it: without the log's index.
        shutil.copytree(folder, tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
        collection.upsert([NewItem("next", VECTOR)])
        collection.close()
    for left, ids in ((tmp_path / "killed", ["old"]), (folder, ["old", "next"])):
        again = Collection(left)
        page, _ = again.page(after="", limit=10)
        assert sorted(one.id for one in page) == sorted(ids)
        assert next(one for one in page if one.id == "old").metadata == {"price": 1}
        again.close()
