"""After a purge no byte of what was deleted is in the collection's folder, whatever happened before or meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import apsw
import numpy as np
import pytest

from live_copies import copied_in_use
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.collections.writer import Delete, Upsert
from twinsight_core.errors import StorageFull, Unavailable
from twinsight_core.filters import Equals
from twinsight_core.host.whole_files import sync_file
from twinsight_core.index.base import Metric, prepared
from twinsight_core.index.hnsw import GraphParameters, HnswIndex
from twinsight_core.items import Checkpoint, CollectionSpec, NewItem, SearchOptions
from twinsight_core.metadata import Metadata
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage import snapshots
from twinsight_core.storage.store import FILE_NAME, Store

DIMENSION = 64
POLICY = IndexPolicy(graph_from=100, patience=20, snapshot_share=0.02)
GRAPH = GraphParameters(links=8, build_width=40, threads=2)


def _vector(*seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


def _opened(folder: Path, policy: IndexPolicy = POLICY) -> Collection:
    return Collection(folder, CollectionOptions(graph=GRAPH, policy=policy, ef=32))


def _item(number: int, version: int = 0) -> NewItem:
    """An item of a size that depends on number and version, so that rows move between pages."""
    filling = "x" * (37 * (number + version) % 900)
    metadata: Metadata = {"word": f"secret-{number:05}-{version}", "filling": filling, "number": number}
    return NewItem(f"person-{number:05}", _vector(number, version), metadata)


def _traces(folder: Path, number: int, versions: int = 3) -> set[str]:
    """Returns the files in which any two components of an item's vectors, or its id or metadata, can be found."""
    marks = [f"person-{number:05}".encode(), f"secret-{number:05}".encode()]
    for version in range(versions):
        vector = _vector(number, version)
        for form in (vector, prepared(vector[None], Metric.COSINE)[0]):
            whole = form.astype("<f4").tobytes()
            marks += [whole[at : at + 8] for at in range(0, len(whole) - 4, 4)]
    found: set[str] = set()
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # a graph's file, replaced meanwhile
            content = file.read_bytes()
            if any(mark in content for mark in marks):
                found.add(file.name)
    return found


@pytest.fixture(params=[Metric.EUCLIDEAN, Metric.COSINE])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A closed collection with a past: 600 items, of which some were written anew and some deleted, and snapshots."""
    folder = tmp_path / "things"
    folder.mkdir()
    Store.create(folder / FILE_NAME, CollectionSpec("things", DIMENSION, request.param))
    with closing(_opened(folder)) as collection:
        for first in range(0, 600, 60):
            items = [_item(number) for number in range(first, first + 60)]
            collection.upsert(items, checkpoint=Checkpoint("bulk", 1 + first))
        assert collection.wait_indexed(60)
        for version in (1, 2):
            collection.upsert([_item(number, version) for number in range(version, 600, 7)])
        collection.delete([f"person-{number:05}" for number in range(3, 600, 7)])
        assert collection.wait_indexed(60)
    return folder


@pytest.fixture
def collection(folder: Path) -> Iterator[Collection]:
    with closing(_opened(folder)) as opened:
        yield opened


def _check_rest(collection: Collection, numbers: range) -> None:
    """Checks that the items that are not purged are found, by their last version."""
    queries = np.stack([_vector(number, number % 7 if number % 7 in {1, 2} else 0) for number in numbers])
    found = collection.search(queries, SearchOptions(1, exact=True))
    assert [one[0].id for one in found] == [f"person-{number:05}" for number in numbers]


def test_a_purged_item_is_nowhere_and_stays_so(folder: Path, collection: Collection) -> None:
    assert {name.partition("-")[0] for name in _traces(folder, 8)} == {FILE_NAME, "graph"}
    assert collection.delete(["person-00008", "nobody"], purge=True) == [True, False]
    assert _traces(folder, 8) == set()
    assert _traces(folder, 9) >= {FILE_NAME}
    assert collection.get(["person-00008"]) == [None]
    _check_rest(collection, range(11, 600, 49))
    assert collection.wait_indexed(60)
    collection.close()
    assert list(folder.glob("graph-*"))
    assert _traces(folder, 8) == set()
    with closing(_opened(folder)) as again:
        assert again.status().indexed_count == again.status().item_count
        _check_rest(again, range(11, 600, 49))


def test_a_deletion_alone_leaves_traces_that_a_later_purge_of_anything_erases(
    folder: Path, collection: Collection
) -> None:
    collection.delete(["person-00005"])
    deleted = [5, *range(3, 600, 7)]
    assert _traces(folder, 5)
    assert collection.delete(["person-00005"], purge=True) == [False]
    assert {number for number in deleted if _traces(folder, number)} == set()


def test_what_meets_a_filter_can_be_purged(folder: Path, collection: Collection) -> None:
    assert collection.delete_where(Equals("number", 8), purge=True) == 1
    assert _traces(folder, 8) == set()


def test_purges_in_a_row_with_writes_and_reads_beside_them_end_well(folder: Path, collection: Collection) -> None:
    stop = threading.Event()

    def write() -> None:
        version = 0
        while not stop.is_set():
            version += 1
            collection.upsert([NewItem(f"other-{n}", _vector(9999, version, n)) for n in range(10)])

    def read() -> None:
        while not stop.is_set():
            collection.search(_vector(11)[None], SearchOptions(5, include_metadata=True, include_vectors=True))

    threads = [threading.Thread(target=work) for work in (write, read, read, read)]
    for thread in threads:
        thread.start()
    try:
        for number in range(8, 36, 7):
            assert collection.delete([f"person-{number:05}"], purge=True) == [True]
            assert _traces(folder, number) == set()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert collection.wait_indexed(60)
    collection.close()
    assert {number for number in range(8, 36, 7) if _traces(folder, number)} == set()


def test_a_graph_that_may_hold_a_purged_item_is_never_saved(folder: Path) -> None:
    policy = IndexPolicy(graph_from=100, patience=20, snapshot_share=0.02, purge_rest=1e9)
    with closing(_opened(folder, policy)) as collection:
        collection.delete(["person-00008"], purge=True)
        assert collection.wait_indexed(60)  # built anew at once
        collection.delete(["person-00015"], purge=True)
        collection.upsert([_item(number) for number in range(1000, 1100)])
        assert collection.wait_indexed(60)  # to be built anew in the far future
        assert collection.status().indexed_count == collection.status().item_count
    assert not list(folder.glob("graph-*"))
    assert _traces(folder, 15) == set()
    with closing(_opened(folder)) as again:
        assert again.wait_indexed(60)
    assert list(folder.glob("graph-*"))
    assert _traces(folder, 15) == set()


def test_a_snapshot_that_is_being_written_does_not_outlive_the_purge(
    folder: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(file: Path) -> None:
        sync_file(file)
        begun.set()
        assert go.wait(60)

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "sync_file", slow)
        collection.upsert([_item(number) for number in range(1000, 1100)])
        assert begun.wait(60)
        assert any(name.endswith(".tmp") for name in _traces(folder, 8))
        purge = threading.Thread(target=collection.delete, args=(["person-00008"],), kwargs={"purge": True})
        purge.start()
        go.set()
        purge.join()
    assert _traces(folder, 8) == set()


def test_a_read_that_holds_a_purge_up_is_named_and_the_purge_can_be_done_again(
    folder: Path, collection: Collection
) -> None:
    collection._store._writer.set_busy_timeout(10)
    reader = apsw.Connection(str(folder / FILE_NAME), flags=apsw.SQLITE_OPEN_READONLY)
    rows = reader.execute("SELECT id FROM items")
    next(rows)
    told: list[int] = []
    with pytest.raises(Unavailable) as refused:
        collection.delete(["person-00008", "nobody"], purge=True, on_deleted=told.append)
    assert told == [1]
    assert refused.value.message == (
        "The items are deleted, but not yet erased from the disk. A long read, perhaps a backup, still needs the "
        "deleted data. Delete them again with `purge`; the next start erases them too."
    )
    assert refused.value.reason == "PURGE_BLOCKED"
    assert collection.get(["person-00008"]) == [None]
    assert _traces(folder, 8)
    collection.upsert([_item(2000)])
    rows.close()
    reader.close()
    assert collection.delete(["person-00008"], purge=True) == [False]
    assert _traces(folder, 8) == set()


def test_a_purge_that_fails_fails_alone(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: Store) -> None:
        raise Unavailable("Another program has locked it.", reason="COLLECTION_BUSY")

    upsert, deletion = Upsert([_item(2000)], None), Delete(["person-00011"])
    purge, absent = Delete(["person-00008"], purge=True), Delete(["nobody"], purge=True)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "erase", failing)
        collection._writer._write([upsert, purge, deletion, absent])
    assert (upsert.answer.result(), deletion.answer.result()) == ([True], [True])
    for one in (purge, absent):
        failure = one.answer.exception()
        assert isinstance(failure, Unavailable)
        assert failure.reason == "PURGE_BLOCKED"  # of a deletion that was not done, it would be the other's
    assert [item is not None for item in collection.get(["person-02000", "person-00011", "person-00008"])] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("step", ["drop", "forget", "erase"])
def test_a_purge_that_is_cut_short_is_finished_at_the_next_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def failing(*_: object) -> None:
        raise StorageFull("The disk has no room; nothing of the call was written.", reason="DISK_FULL")

    with closing(_opened(folder)) as collection:
        with monkeypatch.context() as patch:
            if step == "drop":
                patch.setattr(snapshots, "drop", failing)
            else:
                patch.setattr(Store, {"forget": "forget_snapshots", "erase": "erase"}[step], failing)
            with pytest.raises(StorageFull, match=r"deleted, but not yet erased from the disk\. The disk") as refused:
                collection.delete(["person-00008"], purge=True)
            assert refused.value.reason == "PURGE_UNFINISHED"
        killed = copied_in_use(folder, tmp_path / "killed" / "things")
    assert _traces(killed, 8)
    with closing(_opened(killed)) as again:
        assert _traces(killed, 8) == set()
        assert again.get(["person-00008"]) == [None]
        _check_rest(again, range(11, 600, 49))
    assert _traces(killed, 8) == set()


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("forget_snapshots", StorageFull("The disk has no room.", reason="DISK_FULL")),
        ("erase", Unavailable("A long read still needs what was deleted.", reason="PURGE_BLOCKED")),
    ],
)
def test_a_purge_that_can_not_be_finished_at_the_start_keeps_nobody_from_searching(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
    error: StorageFull | Unavailable,
) -> None:
    def failing(_: Store) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Store, step, failing)
        with closing(_opened(folder)) as collection, pytest.raises(type(error)):
            collection.delete(["person-00008"], purge=True)
        patch.setattr(HnswIndex, "load", None)  # a graph that holds the item is not taken up again
        with closing(_opened(folder)) as again:
            _check_rest(again, range(11, 600, 49))
            assert again.wait_indexed(60)
        assert f"collection `things`: {error.message}" in caplog.text
    traces = _traces(folder, 8)
    assert traces == {FILE_NAME} if step == "erase" else FILE_NAME in traces
    _opened(folder).close()
    assert _traces(folder, 8) == set()


def test_what_a_purge_writes_anew_passes_through_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SQLITE_TMPDIR", raising=False)
    data, ended, seen, through = tmp_path / "it's", threading.Event(), set[str](), list[str]()

    def look() -> None:
        while not ended.is_set():
            for one in Path("/proc/self/fd").iterdir():
                with suppress(OSError):
                    seen.add(str(one.readlink()))

    with closing(Catalog(data)) as catalog:
        catalog.create(CollectionSpec("people", DIMENSION)).upsert([_item(number) for number in range(20_000)])
        looking = threading.Thread(target=look)
        looking.start()
        try:
            for number in range(50):  # on a busy machine a look may come too late
                catalog.get("people").delete([f"person-{number:05}"], purge=True)
                through = [
                    one for one in seen.copy() if one.startswith(str(data / "tmp")) and one.endswith("(deleted)")
                ]
                if through:
                    break
        finally:
            ended.set()
            looking.join()
    assert through
    assert list((data / "tmp").iterdir()) == []


def test_a_folder_for_temporary_files_that_the_user_names_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    Catalog(tmp_path / "data").close()
    assert not (tmp_path / "data" / "tmp").exists()
