"""A data folder is encrypted with another key, for the first time, or no longer, and nothing of before is left."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import apsw
import numpy as np
import pytest
from benchmarks.torture.children import child
from click.testing import CliRunner, Result

from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import CollectionOptions
from twinsight_core.commands.keyring import keyring as keyring_command
from twinsight_core.commands.rekey import rekey as rekey_command
from twinsight_core.errors import DataLoss, FailedPrecondition, NotFound, StartupError, StorageFull
from twinsight_core.host.whole_files import sync_folder
from twinsight_core.index.base import Metric
from twinsight_core.index.hnsw import GraphParameters, HnswIndex
from twinsight_core.items import Checkpoint, CollectionSpec, NewItem, SearchOptions
from twinsight_core.sealing.keyring import Key, Keyring, new_key
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage import data_folder, rekeying
from twinsight_core.storage.records import Changes
from twinsight_core.storage.rekeying import Failed, Rekeyed, rekey
from twinsight_core.storage.store import FILE_NAME, Store

FIRST = Keyring(new_key())
SECOND = FIRST.with_primary(new_key())
OPTIONS = CollectionOptions(
    graph=GraphParameters(links=8, build_width=40), policy=IndexPolicy(graph_from=100, patience=20)
)
COUNT, DIMENSION = 150, 8
NAMES = ("faces", "things")
LIVE = [f"i{n}" for n in range(COUNT) if n not in {3, 4, 5}] + ["i5"]


def _vector(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=DIMENSION).astype(np.float32)


def _opened(data: Path, keyring: Keyring | None, *, allow_plain: bool = False) -> Catalog:
    return Catalog(data, options=dataclasses.replace(OPTIONS, keyring=keyring, allow_plain=allow_plain))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed data folder that is not encrypted, with graphs."""
    data = tmp_path_factory.mktemp("made") / "data"
    with closing(_opened(data, None)) as catalog:
        for name in NAMES:
            collection = catalog.create(CollectionSpec(name, DIMENSION, Metric.EUCLIDEAN, "base", "sha256:1", 5.5))
            items = [NewItem(f"i{n}", _vector(n), {"word": f"secret-{n:04}"}) for n in range(COUNT)]
            collection.upsert(items, checkpoint=Checkpoint("bulk", 7))
            collection.delete(["i3", "i4"])
            collection.upsert([NewItem("i5", _vector(5), {"word": "secret-moved"})])
            assert collection.wait_indexed(60)
    return data


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def _check(data: Path, keyring: Keyring | None, *, allow_plain: bool = False) -> None:
    with closing(_opened(data, keyring, allow_plain=allow_plain)) as catalog:
        assert [name for name, _ in catalog.list()] == list(NAMES)
        for name in NAMES:
            collection = catalog.get(name)
            assert collection.spec == CollectionSpec(name, DIMENSION, Metric.EUCLIDEAN, "base", "sha256:1", 5.5)
            page, after = collection.page(after="", limit=COUNT, include_vectors=True)
            assert (after, sorted(item.id for item in page)) == (None, sorted(LIVE))
            for item in page:
                number = int(item.id[1:])
                assert item.vector is not None
                assert np.array_equal(item.vector, _vector(number))
                assert item.metadata == {"word": "secret-moved" if number == 5 else f"secret-{number:04}"}
            assert collection.last_batch("bulk") == 7
            found = collection.search(np.stack([_vector(9), _vector(5)]), SearchOptions(1))
            assert [one[0].id for one in found] == ["i9", "i5"]


def _traces(data: Path) -> set[str]:
    """Returns the files that hold metadata, or two components of a vector, of any item that is or was there."""
    marks = [b"secret-"]
    for number in range(COUNT):
        whole = _vector(number).astype("<f4").tobytes()
        marks += [whole[at : at + 8] for at in range(0, len(whole) - 4, 4)]
    found: set[str] = set()
    for file in data.rglob("*"):
        if file.is_file() and any(mark in (content := file.read_bytes()) for mark in marks) and content:
            found.add(file.name)
    return found


def test_a_plain_folder_becomes_encrypted_and_nothing_plain_is_left(data: Path) -> None:
    assert _traces(data) >= {FILE_NAME, "graph-000000000001.hnsw"}
    key = FIRST.primary.id
    assert rekey(data, FIRST) == [Rekeyed(name, len(LIVE), None, key) for name in NAMES]
    assert _traces(data) == set()
    _check(data, FIRST)
    assert rekey(data, FIRST) == [Rekeyed(name, len(LIVE), key, key) for name in NAMES]
    with pytest.raises(StartupError, match="is encrypted with the key"):
        _opened(data, None)


def test_a_folder_that_can_be_no_collections_is_left_alone_and_a_copy_of_one_is_told(data: Path) -> None:
    (data / "collections" / "lost+found").mkdir()
    assert [done.id for done in rekey(data, FIRST) if isinstance(done, Rekeyed)] == list(NAMES)
    assert (data / "collections" / "lost+found").is_dir()
    # It needs the first key, whatever the others are encrypted with.
    shutil.copytree(data / "collections" / NAMES[0], data / "collections" / f"{NAMES[0]} (copy)")
    done = rekey(data, SECOND)
    assert [one.id for one in done if isinstance(one, Failed)] == [f"{NAMES[0]} (copy)"]


def test_after_a_rotation_the_old_key_is_needed_no_more(data: Path) -> None:
    rekey(data, FIRST)
    assert {one.after for one in rekey(data, SECOND) if isinstance(one, Rekeyed)} == {SECOND.primary.id}
    _check(data, SECOND.without(FIRST.primary.id))
    with pytest.raises(StartupError, match=f"is encrypted with the key {SECOND.primary.id}"):
        _opened(data, FIRST)


def test_what_was_encrypted_can_be_laid_down_plainly_again(data: Path) -> None:
    rekey(data, FIRST)
    assert rekey(data, FIRST, decrypt=True) == [Rekeyed(name, len(LIVE), FIRST.primary.id, None) for name in NAMES]
    _check(data, None)


def test_graphs_are_taken_along(data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    rekey(data, FIRST)
    rekey(data, SECOND)
    monkeypatch.setattr(HnswIndex, "add", None)  # nothing is left to be added
    with closing(_opened(data, SECOND)) as catalog:
        for name in NAMES:
            assert catalog.get(name).status().indexed_count == len(LIVE)
    _check(data, SECOND)
    assert not caplog.records


def test_a_purge_that_was_cut_short_is_done_with_it(data: Path) -> None:
    with closing(Store(data / "collections" / "faces" / FILE_NAME)) as store:
        store.commit(Changes([1], [], {}, store.next_seq, store.item_count - 1, purge=True))
    rekey(data, FIRST)
    assert not list((data / "collections" / "faces").glob("graph-*"))
    with closing(Store(data / "collections" / "faces" / FILE_NAME, keyring=FIRST)) as store:
        assert not store.purging


def test_a_collection_that_fails_keeps_none_from_being_encrypted(data: Path) -> None:
    rekey(data, FIRST)
    shutil.copytree(data / "collections" / "faces", data / "collections" / "elsewhere")
    with closing(apsw.Connection(str(data / "collections" / "faces" / FILE_NAME))) as connection:
        connection.execute("UPDATE items SET crc = crc + 1 WHERE seq = 2")
    elsewhere, faces, things = rekey(data, SECOND)
    assert isinstance(elsewhere, Failed)
    assert "it is the file of collection `faces`" in elsewhere.error.message
    assert isinstance(faces, Failed)
    assert isinstance(faces.error, DataLoss)
    assert things == Rekeyed("things", len(LIVE), FIRST.primary.id, SECOND.primary.id)
    assert sorted(one.name for one in (data / "collections").iterdir()) == ["elsewhere", "faces", "things"]
    third = Keyring(new_key())
    for one in rekey(data, third):
        assert isinstance(one, Failed)
        assert isinstance(one.error, FailedPrecondition)


def test_a_folder_in_use_or_none_at_all_is_refused(data: Path, tmp_path: Path) -> None:
    with closing(_opened(data, None)), pytest.raises(StartupError, match="is in use by another server"):
        rekey(data, FIRST)
    with pytest.raises(NotFound, match="is not a data folder: it has no `collections`"):
        rekey(tmp_path, FIRST)


def _dying(lines: Connection, data: str, keyring: Keyring, step: int) -> None:
    """Encrypts a data folder, and is killed when it does its `step`th step."""
    steps = iter(range(step))

    def count() -> None:
        if next(steps, None) is None:
            lines.send_bytes(b"killed")
            os.kill(os.getpid(), signal.SIGKILL)

    sync, commit = sync_folder, Store.commit

    def counted_sync(folder: Path) -> None:
        count()
        sync(folder)

    def counted_commit(self: Store, changes: Changes) -> None:
        count()
        commit(self, changes)

    with pytest.MonkeyPatch.context() as patch:
        for module in (data_folder, rekeying):
            patch.setattr(module, "sync_folder", counted_sync)
        patch.setattr(Store, "commit", counted_commit)
        rekey(Path(data), keyring)


@pytest.mark.parametrize("before", [None, FIRST], ids=["plain", "encrypted"])
def test_a_run_that_is_killed_goes_on_where_it_was(data: Path, tmp_path: Path, before: Keyring | None) -> None:
    if before is not None:
        rekey(data, before)
    done: list[int] = []
    for step in range(100):
        cut = Path(shutil.copytree(data, tmp_path / f"cut{step}"))
        with child(_dying, str(cut), SECOND, step) as process:
            killed = process.line(60) == "killed"
            assert process.ended() == ("killed by SIGKILL" if killed else "")
        if not killed:
            break
        # Whole, under the one key or the other, whatever was going on.
        _check(Path(shutil.copytree(cut, tmp_path / f"seen{step}")), SECOND, allow_plain=before is None)
        again = [one for one in rekey(cut, SECOND) if isinstance(one, Rekeyed)]
        assert {one.after for one in again} == {SECOND.primary.id}
        done.append(sum(one.before == one.after for one in again))
        assert _traces(cut) == set()
        assert sorted(one.name for one in (cut / "collections").iterdir()) == list(NAMES)
        _check(cut, SECOND.without(FIRST.primary.id))
    # From none done to all, never back.
    assert done == sorted(done)
    assert set(done) == {0, 1, 2}


def _run(command: str, *arguments: object, keyring: Path) -> Result:
    group = rekey_command if command == "rekey" else keyring_command
    words = [] if command == "rekey" else [command]
    return CliRunner().invoke(group, [*words, *map(str, arguments), "--keyring", str(keyring)])


def test_the_commands_make_keys_and_change_them(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "keyring.json"
    first = _run("new", keyring=file).output.strip()
    assert file.stat().st_mode & 0o777 == 0o600
    done = _run("rekey", "--data-dir", data, keyring=file)
    assert (done.exit_code, done.output.splitlines()) == (
        0,
        [f"{name}: {len(LIVE)} items, encrypted with {first}; before: not encrypted" for name in NAMES],
    )
    second = _run("add", keyring=file).output.strip()
    listed = _run("list", keyring=file).output.splitlines()
    assert [line.partition(":")[0] for line in listed] == [second, first]
    assert [line.endswith(", primary") for line in listed] == [True, False]
    done = _run("rekey", "--data-dir", data, keyring=file)
    assert (done.exit_code, done.output.splitlines()) == (
        0,
        [
            *(f"{name}: {len(LIVE)} items, encrypted with {second}; before: {first}" for name in NAMES),
            f"The key {first} is no longer used in this folder; backups may still need it.",
        ],
    )
    assert _run("remove", first, keyring=file).exit_code == 0
    done = _run("rekey", "--data-dir", data, keyring=file)
    assert done.output.splitlines() == [f"{name}: already encrypted with {second}" for name in NAMES]
    done = _run("rekey", "--data-dir", data, "--decrypt", keyring=file)
    assert done.output.splitlines()[-1] == (
        f"The key {second} is no longer used in this folder; backups may still need it."
    )
    _check(data, None)


def test_what_is_wrong_is_told_in_a_line(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "keyring.json"
    assert _run("add", keyring=file).stderr == f"twinsight: The keyring `{file}` does not exist.\n"
    key = _run("new", keyring=file).output.strip()
    before = file.read_bytes()
    for arguments, said in (
        (("new",), f"`{file}` already exists; nothing was written."),
        (("remove", key), f"`{key}` is the primary key; add another first."),
        (("remove", "nothing"), f"Key `nothing` does not exist; available: `{key}`."),
        (("rekey", "--data-dir", tmp_path), f"`{tmp_path}` is not a data folder: it has no `collections`."),
    ):
        done = _run(*map(str, arguments), keyring=file)
        assert (done.exit_code, done.stderr) == (1, f"twinsight: {said}\n")
    assert file.read_bytes() == before
    done = CliRunner().invoke(keyring_command, ["new", "--keyring", "env:KEYS"])
    assert (done.exit_code, done.stderr) == (1, "twinsight: `env:KEYS` is not a file and can't be written.\n")
    _run("rekey", "--data-dir", data, keyring=file)
    other = tmp_path / "other.json"
    _run("new", keyring=other)
    done = _run("rekey", "--data-dir", data, keyring=other)
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == len(NAMES)
    assert f"Collection `faces` is encrypted with the key {key}, and the keyring does not have it" in done.stderr


@pytest.mark.parametrize("full", [OSError(errno.ENOSPC, "full"), StorageFull("full", reason="DISK_FULL")])
def test_a_full_disk_leaves_one_collection_as_it_was_and_what_is_done_is_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: Exception
) -> None:
    key_file = tmp_path / "keyring.json"
    assert _run("new", keyring=key_file).exit_code == 0
    make = Store.create

    def filled(file: Path, spec: CollectionSpec, *, key: Key | None = None) -> None:
        if spec.id == NAMES[1]:
            raise full
        make(file, spec, key=key)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "create", filled)
        done = _run("rekey", "--data-dir", data, keyring=key_file)
    assert done.exit_code == 1
    assert done.stdout.startswith(f"{NAMES[0]}: {len(LIVE)} items, encrypted with ")
    assert done.stderr == (
        f"twinsight: The disk has no room for another copy of collection `{NAMES[1]}`, which stays as it is. Mend "
        "that and run the command again to continue.\n"
    )
    again = _run("rekey", "--data-dir", data, keyring=key_file)
    assert again.exit_code == 0
    assert ": already encrypted with " in again.stdout.splitlines()[0]
    assert "; before: not encrypted" in again.stdout.splitlines()[1]
