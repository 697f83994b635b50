"""A graph's file may be lost or damaged in any way: the answers stay right, and the graph comes back."""

import dataclasses
import errno
import os
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import LIBRARY, GraphParameters, HnswIndex
from twinsight_core.items import CollectionSpec, CollectionState, NewItem, SearchOptions
from twinsight_core.sealing.keyring import Keyring, new_key
from twinsight_core.search import indexer
from twinsight_core.search.generation import Coverage, Generation
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage import snapshots
from twinsight_core.storage.store import FILE_NAME, Store

COUNT, DIMENSION = 1500, 8
KEYRING = Keyring(new_key())
OPTIONS = CollectionOptions(
    graph=GraphParameters(links=8, build_width=60, threads=2),
    policy=IndexPolicy(graph_from=200),
    ef=16,
    keyring=KEYRING,
    allow_plain=True,
)


def _vectors(seed: int, count: int = COUNT) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


@pytest.fixture(scope="module", params=["plain", "encrypted"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed collection with a snapshot, to be copied."""
    folder = tmp_path_factory.mktemp("sound") / "things"
    folder.mkdir()
    key = None if request.param == "plain" else KEYRING.primary
    Store.create(folder / FILE_NAME, CollectionSpec("things", DIMENSION, Metric.EUCLIDEAN), key=key)
    collection = Collection(folder, OPTIONS)
    collection.upsert([NewItem(f"i{i}", vector) for i, vector in enumerate(_vectors(0))])
    assert collection.wait_indexed(60)
    collection.close()
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "things"))


def _graphs(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("graph-*"))


def _check_answers(collection: Collection) -> None:
    queries = _vectors(0)[::50]
    found = collection.search(queries, SearchOptions(1))
    assert [one[0].id for one in found] == [f"i{i}" for i in range(0, COUNT, 50)]


def test_closing_leaves_a_snapshot_and_opening_takes_it(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _graphs(folder) == ["graph-000000000001.hnsw"]
    monkeypatch.setattr(HnswIndex, "add", None)  # nothing is left to be added
    collection = Collection(folder, OPTIONS)
    status = collection.status()
    assert (status.state, status.indexed_count) == (CollectionState.READY, COUNT)
    _check_answers(collection)
    assert collection.wait_indexed(10)
    collection.close()
    # Nothing changed, nothing was written.
    assert _graphs(folder) == ["graph-000000000001.hnsw"]
    assert not caplog.records


def test_a_graph_for_which_no_time_is_left_is_not_saved_and_nothing_is_lost(folder: Path) -> None:
    before = _graphs(folder)
    late = Collection(folder, OPTIONS)
    late.upsert([NewItem("late", np.full(DIMENSION, 9, np.float32))])
    assert late.wait_indexed(30)
    late.close(until=time.monotonic())
    assert _graphs(folder) == before
    again = Collection(folder, OPTIONS)
    assert again.search(np.full((1, DIMENSION), 9, np.float32), SearchOptions(1))[0][0].id == "late"
    assert again.wait_indexed(30)
    again.close(until=time.monotonic() + 60)
    assert _graphs(folder) != before


def test_a_graph_from_a_snapshot_is_audited(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: set[int] = set()
    audited = Generation.audited

    def noted(self: Generation, graph: HnswIndex, coverage: Coverage, start: int, end: int, *, width: int) -> Coverage:
        looked_at.update(range(start, end))
        return audited(self, graph, coverage, start, end, width=width)

    monkeypatch.setattr(Generation, "audited", noted)
    collection = Collection(folder, OPTIONS)
    assert collection.wait_indexed(30)
    assert looked_at == set(range(COUNT))
    collection.close()


def test_what_came_and_went_after_the_snapshot_is_right(folder: Path) -> None:
    collection = Collection(folder, OPTIONS)
    collection.upsert([NewItem("i0", np.full(DIMENSION, 9, np.float32)), NewItem("new", _vectors(0)[0])])
    assert collection.delete(["i50"]) == [True]
    collection.close(snapshot=False)
    collection = Collection(folder, OPTIONS)
    assert collection.search(_vectors(0)[:1], SearchOptions(1))[0][0].id == "new"
    assert collection.search(np.full((1, DIMENSION), 9, np.float32), SearchOptions(1))[0][0].id == "i0"
    assert collection.search(_vectors(0)[50:51], SearchOptions(1))[0][0].id != "i50"
    assert collection.wait_indexed(30)
    assert collection.status().indexed_count == collection.status().item_count == COUNT
    collection.close()


def test_two_snapshots_are_kept_and_the_older_serves_when_the_newer_is_lost(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in range(3):
        collection = Collection(folder, OPTIONS)
        collection.upsert([NewItem(f"more{step}", np.full(DIMENSION, 10 + step, np.float32))])
        assert collection.wait_indexed(30)
        collection.close()
    assert _graphs(folder) == ["graph-000000000003.hnsw", "graph-000000000004.hnsw"]
    (folder / "graph-000000000004.hnsw").unlink()
    collection = Collection(folder, OPTIONS)
    assert "ignoring snapshot graph-000000000004.hnsw: No such file or directory" in caplog.text
    assert collection.status().indexed_count >= COUNT
    _check_answers(collection)
    assert collection.search(np.full((1, DIMENSION), 12, np.float32), SearchOptions(1))[0][0].id == "more2"
    collection.close()


def _flip(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _header(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(96)] ^= 1 << rng.randrange(8)


def _garbage(content: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(content) - 4096)
    content[at : at + 4096] = rng.randbytes(4096)


def _zeros(content: bytearray, rng: random.Random) -> None:
    # Not in a run of links that are zero already.
    at = rng.randrange(len(content) - 4096)
    content[at : at + 4096] = bytes(4096)


def _truncation(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


@pytest.mark.parametrize("damage", [_flip, _header, _garbage, _zeros, _truncation])
def test_a_damaged_snapshot_is_never_loaded(
    sound: Path, tmp_path: Path, damage: Callable[[bytearray, random.Random], None], caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(damage.__name__)
    for trial in range(4):
        folder = Path(shutil.copytree(sound, tmp_path / f"{trial}"))
        file = folder / _graphs(folder)[0]
        content = bytearray(file.read_bytes())
        damage(content, rng)
        file.write_bytes(content)
        caplog.clear()
        collection = Collection(folder, OPTIONS)
        _check_answers(collection)
        assert "collection `things`: ignoring snapshot graph-000000000001.hnsw: " in caplog.text
        assert collection.wait_indexed(60)
        status = collection.status()
        assert (status.state, status.indexed_count) == (CollectionState.READY, COUNT)
        _check_answers(collection)
        collection.close()


def test_a_graph_of_other_parameters_is_built_anew(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = dataclasses.replace(OPTIONS, graph=GraphParameters(links=12, build_width=60))
    collection = Collection(folder, other)
    assert "it was built with other parameters" in caplog.text
    _check_answers(collection)
    assert collection.wait_indexed(60)
    collection.close()


def test_a_snapshot_that_a_full_disk_cut_short_is_given_up(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = HnswIndex.save

    def cut(self: HnswIndex, file: Path) -> int:
        size = whole(self, file)
        with file.open("r+b") as content:
            content.truncate(size // 2)  # what hnswlib leaves there, without an error
        return size

    monkeypatch.setattr(HnswIndex, "save", cut)
    collection = Collection(folder, OPTIONS)
    collection.upsert([NewItem("new", np.full(DIMENSION, 9, np.float32))])
    assert collection.wait_indexed(30)
    collection.close()
    assert "no snapshot was written: A snapshot of" in caplog.text
    assert _graphs(folder) == ["graph-000000000001.hnsw"]
    collection = Collection(folder, OPTIONS)
    _check_answers(collection)
    collection.close(snapshot=False)


@pytest.mark.parametrize("memory", [1 << 30, 0])
def test_the_library_which_keeps_the_interpreter_writes_to_memory_if_there_is_any(
    folder: Path, monkeypatch: pytest.MonkeyPatch, memory: float
) -> None:
    monkeypatch.setattr("twinsight_core.host.memory_files.memory_left", lambda: memory)
    whole, in_memory = HnswIndex.save, list[bool]()

    def save(self: HnswIndex, file: Path) -> int:
        size = whole(self, file)
        in_memory.append(file.resolve().parent != folder)
        return size

    monkeypatch.setattr(HnswIndex, "save", save)
    collection = Collection(folder, OPTIONS)
    sealed = collection.key_id is not None
    collection.upsert([NewItem("new", np.full(DIMENSION, 9, np.float32))])
    assert collection.wait_indexed(30)
    collection.close()
    assert in_memory == [memory > 0 or sealed]
    monkeypatch.setattr(HnswIndex, "add", None)  # nothing is left to be added
    collection = Collection(folder, OPTIONS)
    assert collection.status().indexed_count == COUNT + 1
    _check_answers(collection)
    collection.close(snapshot=False)


def test_a_snapshot_that_does_not_fit_is_not_begun(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection(folder, OPTIONS)
    collection.upsert([NewItem("new", np.full(DIMENSION, 9, np.float32))])
    assert collection.wait_indexed(30)
    monkeypatch.setattr(HnswIndex, "save", None)
    full = list(os.statvfs(folder))
    full[4] = 1  # blocks left
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(full))
    collection.close()
    assert "does not fit: the disk has" in caplog.text
    assert _graphs(folder) == ["graph-000000000001.hnsw"]


def test_a_disk_that_fills_up_while_a_snapshot_is_written_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:  # a file system that gives out room late says so at the sync
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    collection = Collection(folder, OPTIONS)
    collection.upsert([NewItem("new", np.full(DIMENSION, 9, np.float32))])
    assert collection.wait_indexed(30)
    monkeypatch.setattr(snapshots, "sync_file", full)
    collection.close()
    assert "no snapshot was written: A snapshot of" in caplog.text
    assert "does not fit on the disk" in caplog.text
    assert _graphs(folder) == ["graph-000000000001.hnsw"]


def test_a_snapshot_that_failed_is_tried_again_though_nobody_writes(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer, "_SNAPSHOT_RETRY_S", 0.05)
    whole, tries, saved = snapshots.save, iter((True, False)), threading.Event()
    given_back = list[bool]()
    monkeypatch.setattr(indexer, "give_back_freed", lambda: given_back.append(saved.is_set()))

    def save(graph: HnswIndex, last_seq: int, outside: np.ndarray, folder: Path, store: Store) -> None:
        if next(tries):
            raise PermissionError("not now")
        whole(graph, last_seq, outside, folder, store)
        saved.set()

    monkeypatch.setattr(snapshots, "save", save)
    policy = IndexPolicy(graph_from=200, patience=50, snapshot_share=0.01)
    collection = Collection(folder, dataclasses.replace(OPTIONS, policy=policy))
    collection.upsert([NewItem(f"more{i}", vector) for i, vector in enumerate(_vectors(1, 100))])
    assert saved.wait(30)
    assert "no snapshot was written: not now" in caplog.text
    assert _graphs(folder) == ["graph-000000000001.hnsw", "graph-000000000002.hnsw"]
    assert collection.wait_indexed(30)
    collection.close()
    assert given_back == [True]  # not after the one that failed


def test_files_that_are_not_on_record_are_removed(folder: Path) -> None:
    (folder / "graph-000000000009.hnsw.tmp").write_bytes(b"unfinished")
    (folder / "graph-000000000008.hnsw").write_bytes(b"renamed but not recorded")
    (folder / "notes.txt").write_text("not ours")
    Collection(folder, OPTIONS).close()
    assert _graphs(folder) == ["graph-000000000001.hnsw"]
    assert (folder / "notes.txt").exists()


def test_snapshots_are_written_as_the_collection_grows(folder: Path) -> None:
    policy = IndexPolicy(graph_from=200, patience=50, snapshot_share=0.1)
    collection = Collection(folder, dataclasses.replace(OPTIONS, policy=policy))
    collection.upsert([NewItem(f"more{i}", vector) for i, vector in enumerate(_vectors(1, 400))])
    assert collection.wait_indexed(60)
    assert _graphs(folder) == ["graph-000000000001.hnsw", "graph-000000000002.hnsw"]
    collection.close()


def test_a_graph_of_short_vectors_is_taken_as_it_was_built_or_built_anew(tmp_path: Path) -> None:
    folder = tmp_path / "short"
    folder.mkdir()
    Store.create(folder / FILE_NAME, CollectionSpec("short", DIMENSION, Metric.DOT))
    vectors = _vectors(0) * np.float32(1e-4)
    collection = Collection(folder, OPTIONS)
    collection.upsert([NewItem(f"i{i}", vector) for i, vector in enumerate(vectors)])

    def graph() -> HnswIndex | None:
        return collection._indexer.generation.graph

    def check() -> None:
        assert collection.wait_indexed(30)
        now = graph()
        assert now is not None
        assert now.exponent == 40
        truth = collection.search(vectors[::10], SearchOptions(5, exact=True))
        found = collection.search(vectors[::10], SearchOptions(5, ef=40))
        assert np.mean([one == other for one, other in zip(found, truth, strict=True)]) > 0.95

    check()
    collection.close()
    collection = Collection(folder, OPTIONS)
    assert collection._store.snapshots()[0].library == f"{LIBRARY}, vectors times 2**40"
    loaded = graph()
    check()
    assert graph() is loaded is not None
    # As an earlier release wrote it: the vectors as they were.
    old = HnswIndex(DIMENSION, Metric.DOT, OPTIONS.graph)
    old.add(np.arange(1, COUNT + 1), vectors)
    snapshots.save(old, COUNT, np.empty(0, np.int64), folder, collection._store)
    assert collection._store.snapshots()[0].library == LIBRARY
    collection.close()
    collection = Collection(folder, OPTIONS)
    check()
    collection.close()


@pytest.mark.parametrize("library", ["hnswlib 0.7.0", f"{LIBRARY}, vectors times 2**many", f"{LIBRARY}, smaller"])
def test_a_graph_of_another_library_is_built_anew(folder: Path, library: str, caplog: pytest.LogCaptureFixture) -> None:
    connection = sqlite3.connect(folder / FILE_NAME)
    connection.execute("UPDATE snapshots SET library = ?", (library,))
    connection.commit()
    connection.close()
    collection = Collection(folder, OPTIONS)
    assert f"it was written by {library}, and this is {LIBRARY}" in caplog.text
    _check_answers(collection)
    collection.close(snapshot=False)
