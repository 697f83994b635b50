import errno
import fcntl
import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import numpy as np
import pytest
from benchmarks.torture.children import child
from click import Command
from click.testing import CliRunner

from benchmarks.torture import killed_writer as writer
from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.commands.backup import backup as backup_command
from twinsight_core.commands.restore import restore as restore_command
from twinsight_core.commands.salvage import salvage as salvage_command
from twinsight_core.errors import AlreadyExists, DataLoss, NotFound, StartupError, StorageFull
from twinsight_core.index.base import Metric
from twinsight_core.items import Checkpoint, CollectionSpec, Item, NewItem, SearchOptions
from twinsight_core.sealing.keyring import Keyring, new_key
from twinsight_core.storage import backups, data_folder, salvaging
from twinsight_core.storage.backups import MANIFEST, back_up, digest_of, read_manifest
from twinsight_core.storage.restoring import restore
from twinsight_core.storage.sqlite import connect
from twinsight_core.storage.store import FILE_NAME, Store

OPTIONS = CollectionOptions(keyring=Keyring(new_key()), allow_plain=True)


def _fill(collection: Collection, count: int = 30) -> None:
    vectors = np.random.default_rng(0).normal(size=(count, collection.spec.dimension)).astype(np.float32)
    items = [NewItem(f"i{n}", vector, {"n": n, "name": f"ä{n}"}) for n, vector in enumerate(vectors)]
    collection.upsert(items, checkpoint=Checkpoint("bulk", 3))


def _items(collection: Collection) -> list[Item]:
    page, after = collection.page(after="", limit=10_000, include_vectors=True)
    assert after is None
    return page


def _same(one: list[Item], other: list[Item]) -> bool:
    def plain(items: list[Item]) -> list[object]:
        return [(item.id, None if item.vector is None else item.vector.tolist(), item.metadata) for item in items]

    return plain(one) == plain(other)


@pytest.fixture(params=["plain", "encrypted"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A data folder with collections `a` and `b`, in use."""
    catalog = Catalog(tmp_path / "data", options=OPTIONS if request.param == "encrypted" else None)
    for spec in (CollectionSpec("a", 4, Metric.DOT, "base", "sha256:1", 5.0), CollectionSpec("b", 3)):
        _fill(catalog.create(spec))
    yield tmp_path / "data"
    catalog.close()


def test_a_folder_that_can_be_no_collections_is_not_backed_up(data: Path, tmp_path: Path) -> None:
    (data / "collections" / "lost+found").mkdir()
    assert [entry.id for entry in back_up(data, tmp_path / "backup").collections] == ["a", "b"]
    assert sorted(file.name for file in (tmp_path / "backup").iterdir()) == ["a", "b", MANIFEST]


def test_what_is_restored_elsewhere_is_what_was_backed_up(data: Path, tmp_path: Path) -> None:
    made = back_up(data, tmp_path / "backup")
    found = [(entry.id, entry.item_count, entry.next_seq) for entry in made.collections]
    assert found == [("a", 30, 31), ("b", 30, 31)]
    assert read_manifest(tmp_path / "backup") == made
    done = restore(tmp_path / "backup", tmp_path / "other")
    assert [(one.id, one.item_count) for one in done] == [("a", 30), ("b", 30)]
    shutil.copytree(data, tmp_path / "copy")
    with (
        closing(Catalog(tmp_path / "copy", options=OPTIONS)) as original,
        closing(Catalog(tmp_path / "other", options=OPTIONS)) as restored,
    ):
        for name in ("a", "b"):
            one, other = original.get(name), restored.get(name)
            assert one.spec == other.spec
            assert _same(_items(one), _items(other))
            assert other.last_batch("bulk") == 3
            query = np.ones((1, one.spec.dimension), np.float32)
            assert one.search(query, SearchOptions(5)) == other.search(query, SearchOptions(5))
            _fill(other, 40)  # passed over: the batch is on record
            assert other.status().item_count == 30
            assert other.delete(["i3"]) == [True]
    names = sorted(str(path.relative_to(tmp_path / "backup")) for path in (tmp_path / "backup").rglob("*"))
    assert names == ["a", "a/store.db", "b", "b/store.db", MANIFEST]


def test_a_backup_holds_nothing_that_was_deleted(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "data")
    collection = catalog.create(CollectionSpec("a", 4))
    collection.upsert([NewItem(f"i{n}", np.ones(4, np.float32), {"name": f"secret{n:04}"}) for n in range(2000)])
    collection.delete([f"i{n}" for n in range(2000) if n % 7])
    back_up(tmp_path / "data", tmp_path / "backup")
    content = (tmp_path / "backup" / "a" / FILE_NAME).read_bytes()
    assert {n for n in range(2000) if f"secret{n:04}".encode() in content} == set(range(0, 2000, 7))
    catalog.close()


def test_a_backup_made_while_another_process_writes_holds_all_that_was_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "collections" / "things"
    folder.mkdir(parents=True)
    Store.create(folder / FILE_NAME, CollectionSpec("things", writer.DIMENSION, Metric.EUCLIDEAN))
    lines: list[str] = []
    taken: list[int] = []
    with child(writer.write, str(folder), 1, 0) as process:
        assert process.line(60) == "opening"
        for number in range(3):
            while len(lines) < 100 * (number + 1):
                line = process.line(60)
                assert line is not None
                lines.append(line)
            taken.append(len(lines))
            back_up(tmp_path / "data", tmp_path / f"backup{number}")
        process.kill()
        lines += process.rest()
    for number, count in enumerate(taken):
        restore(tmp_path / f"backup{number}", tmp_path / f"other{number}")
        with closing(Catalog(tmp_path / f"other{number}", options=OPTIONS)) as catalog:
            ids = {item.id for item in _items(catalog.get("things"))}
        begun = [line.split() for line in lines if line.startswith("begin")]
        kinds = {int(words[1]): (words[2], int(words[3])) for words in begun}
        done = [int(line.split()[1]) for line in lines[:count] if line.startswith("done")]
        deleted = {batch for kind, batch in kinds.values() if kind == "delete"}
        there = [n for n in done if kinds[n][0] == "upsert" and n not in deleted]
        assert there
        for batch in there:
            assert set(writer.own_names(batch)) <= ids
        for n in done:
            kind, batch = kinds[n]
            if kind == "delete":
                assert not set(writer.own_names(batch)) & ids
        for batch in {int(one[1:].partition("-")[0]) for one in ids if one.startswith("b")}:
            assert set(writer.own_names(batch)) <= ids, f"batch {batch} is there by half"


def test_a_backup_made_beside_writing_threads_is_whole(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "mine")
    catalog = Catalog(tmp_path / "mine", options=OPTIONS)
    collection, stop = catalog.get("a"), threading.Event()

    def write() -> None:
        batch = 0
        while not stop.is_set():
            batch += 1
            collection.upsert([NewItem(f"w{n}", np.full(4, batch, np.float32), {"n": batch}) for n in range(20)])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(5):
            back_up(tmp_path / "mine", tmp_path / f"backup{number}", only=["a"])
    finally:
        stop.set()
        thread.join()
        catalog.close()
    for number in range(5):
        restore(tmp_path / f"backup{number}", tmp_path / f"other{number}")
        with closing(Catalog(tmp_path / f"other{number}", options=OPTIONS)) as other:
            written = [item.metadata["n"] for item in _items(other.get("a")) if item.id.startswith("w")]
            assert len(written) in {0, 20}
            assert len(set(written)) <= 1


def test_of_a_backup_only_what_was_asked_for_is_made_and_restored(data: Path, tmp_path: Path) -> None:
    made = back_up(data, tmp_path / "one", only=["b", "b"])
    assert [entry.id for entry in made.collections] == ["b"]
    back_up(data, tmp_path / "all")
    assert [entry.id for entry in restore(tmp_path / "all", tmp_path / "other", only=["a"])] == ["a"]
    with pytest.raises(NotFound, match="Collection `c` does not exist; available: `a`, `b`"):
        back_up(data, tmp_path / "none", only=["c"])
    with pytest.raises(NotFound, match="Collection `a` does not exist; available: `b`"):
        restore(tmp_path / "one", tmp_path / "other", only=["a"])
    assert not (tmp_path / "none").exists()


def test_a_backup_changes_nothing_in_the_data_folder(data: Path, tmp_path: Path) -> None:
    files = [data / "collections" / name / file for name in ("a", "b") for file in (FILE_NAME, f"{FILE_NAME}-wal")]
    before = [digest_of(file) for file in files]
    back_up(data, tmp_path / "backup")
    assert [digest_of(file) for file in files] == before


def test_a_closed_data_folder_can_be_backed_up(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "idle")
    Catalog(tmp_path / "idle", options=OPTIONS).close()
    back_up(tmp_path / "idle", tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "other")
    with closing(Catalog(tmp_path / "idle", options=OPTIONS)) as again:
        assert again.get("a").status().item_count == 30


def test_a_folder_that_is_there_is_not_written_over(data: Path, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    with pytest.raises(AlreadyExists, match="backup` already exists; nothing was written"):
        back_up(data, tmp_path / "backup")
    with pytest.raises(NotFound, match="is not a data folder: it has no `collections`"):
        back_up(tmp_path / "backup", tmp_path / "more")
    assert list((tmp_path / "backup").iterdir()) == []


def test_a_backup_of_a_damaged_collection_is_refused_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "idle")
    Catalog(tmp_path / "idle", options=OPTIONS).close()
    other = apsw.Connection(str(tmp_path / "idle" / "collections" / "b" / FILE_NAME))
    other.execute("UPDATE items SET crc = crc + 1 WHERE seq = 2")
    other.close()
    with pytest.raises(DataLoss, match="Collection `b` is damaged: item number 2 does not match its checksum"):
        back_up(tmp_path / "idle", tmp_path / "backup")
    assert not [path for path in tmp_path.iterdir() if "backup" in path.name]
    back_up(tmp_path / "idle", tmp_path / "backup", only=["a"])


def test_what_a_killed_backup_left_is_removed_by_the_next(data: Path, tmp_path: Path) -> None:
    left = tmp_path / ".backup.unfinished"
    for name in ("a", "gone"):
        (left / name).mkdir(parents=True)
        (left / name / FILE_NAME).write_bytes(b"secret")
    left.chmod(0o755)
    (left / "link").symlink_to(data)
    back_up(data, tmp_path / "backup")
    assert sorted(one.name for one in (tmp_path / "backup").iterdir()) == ["a", "b", MANIFEST]
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700
    assert not left.exists()
    assert len(restore(tmp_path / "backup", tmp_path / "other")) == 2


def test_a_backup_that_runs_is_not_disturbed_by_another(data: Path, tmp_path: Path) -> None:
    with backups.made_whole(tmp_path / "backup", tmp_path / "data") as folder:
        (folder / "file").touch()
        with pytest.raises(AlreadyExists, match="backup` is already being made; nothing was written"):
            back_up(data, tmp_path / "backup")
        back_up(data, tmp_path / "more")
    assert [one.name for one in (tmp_path / "backup").iterdir()] == ["file"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["backup", "data", "more"]


def test_a_backup_may_lie_where_folders_can_not_be_locked(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlockable(descriptor: int, _: int) -> None:
        raise OSError(errno.EBADF, f"{descriptor} is not open for writing")

    monkeypatch.setattr(fcntl, "flock", unlockable)
    back_up(data, tmp_path / "backup")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["backup", "data"]


def test_an_unfinished_backup_of_another_user_is_not_taken(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".backup.unfinished").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError, match=r"Belongs to another user: .*\.backup\.unfinished"):
        back_up(data, tmp_path / "backup")


@pytest.mark.parametrize("command", [backup_command, salvage_command])
def test_sigterm_ends_a_command_that_removes_what_it_began(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    def ending(file: Path) -> backups.BackupEntry:
        assert file.exists()
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it goes on")

    for module in (backups, salvaging):
        monkeypatch.setattr(module, "entry_of", ending)
    before = signal.getsignal(signal.SIGTERM)
    names = ["a"] if command is salvage_command else []
    done = CliRunner().invoke(command, [*names, "--data-dir", str(data), "--out", str(tmp_path / "backup")])
    assert done.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert [one.name for one in tmp_path.iterdir()] == ["data"]


def test_a_copy_is_broken_off_in_its_midst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Catalog(tmp_path / "data")) as catalog:
        _fill(catalog.create(CollectionSpec("a", 4)), 2000)

    def ending() -> bool:
        raise SystemExit(143)

    monkeypatch.setattr(backups, "_go_on", ending)
    with pytest.raises(SystemExit):
        back_up(tmp_path / "data", tmp_path / "backup")
    assert [one.name for one in tmp_path.iterdir()] == ["data"]


def test_a_collection_that_is_deleted_while_it_is_copied_is_left_out(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(data, tmp_path / "mine")

    def deleting(file: Path, flags: int, vfs: str | None) -> apsw.Connection:
        connection = connect(file, flags, vfs)
        if file.parent.name == "b":
            shutil.rmtree(file.parent)
        return connection

    monkeypatch.setattr(backups, "connect", deleting)
    made = back_up(tmp_path / "mine", tmp_path / "backup")
    assert [entry.id for entry in made.collections] == ["a"]
    shutil.copytree(data / "collections" / "b", tmp_path / "mine" / "collections" / "b")
    with pytest.raises(NotFound, match="Collection `b` was deleted while it was copied"):
        back_up(tmp_path / "mine", tmp_path / "more", only=["b"])


def test_a_collection_that_is_there_is_replaced_only_on_request(data: Path, tmp_path: Path) -> None:
    back_up(data, tmp_path / "backup")
    other = tmp_path / "other"
    with closing(Catalog(other, options=OPTIONS)) as catalog:
        catalog.create(CollectionSpec("b", 9))
        with pytest.raises(StartupError, match="is in use by another server"):
            restore(tmp_path / "backup", other, replace=True)
    with pytest.raises(AlreadyExists, match="Collection `b` already exists; nothing was restored"):
        restore(tmp_path / "backup", other)
    assert [one.name for one in (other / "collections").iterdir()] == ["b"]
    restore(tmp_path / "backup", other, replace=True)
    assert sorted(one.name for one in (other / "collections").iterdir()) == ["a", "b"]
    with closing(Catalog(other, options=OPTIONS)) as catalog:
        assert (catalog.get("b").spec.dimension, catalog.get("b").status().item_count) == (3, 30)


@pytest.mark.parametrize("renamed", [1, 2])
def test_a_replacement_that_was_cut_short_leaves_the_old_or_the_new(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    back_up(data, tmp_path / "backup", only=["b"])
    other = tmp_path / "other"
    with closing(Catalog(other, options=OPTIONS)) as catalog:
        catalog.create(CollectionSpec("b", 9))
    syncs = iter(range(renamed - 1))

    def cut(folder: Path) -> None:
        if folder.name == "collections" and next(syncs, None) is None:
            raise KeyboardInterrupt(folder)

    monkeypatch.setattr(data_folder, "sync_folder", cut)
    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "backup", other, replace=True)
    with closing(Catalog(other, options=OPTIONS)) as catalog:
        assert catalog.get("b").spec.dimension == (9 if renamed == 1 else 3)
    assert [one.name for one in (other / "collections").iterdir()] == ["b"]


def test_no_damage_to_a_backup_is_put_in_place(data: Path, tmp_path: Path) -> None:
    back_up(data, tmp_path / "sound")
    rng = random.Random(0)
    for trial in range(20):
        backup = Path(shutil.copytree(tmp_path / "sound", tmp_path / f"backup{trial}"))
        file = backup / "b" / FILE_NAME
        content = bytearray(file.read_bytes())
        at = rng.randrange(len(content))
        if trial % 2:
            content[at] ^= 1 << rng.randrange(8)
        else:
            del content[at:]
        file.write_bytes(content)
        with pytest.raises(DataLoss, match=rf"Backup `.*backup{trial}` is damaged: `b/store\.db` ") as refused:
            restore(backup, tmp_path / "other")
        assert refused.value.reason == "BACKUP_DAMAGED"
        assert list((tmp_path / "other" / "collections").iterdir()) == []


@pytest.mark.parametrize("change", ["UPDATE items SET id = 'forged' WHERE seq = 2", "CREATE TABLE kept (id)"])
def test_a_backup_that_was_changed_with_its_digest_is_refused(data: Path, tmp_path: Path, change: str) -> None:
    back_up(data, tmp_path / "backup", only=["a"])
    file = tmp_path / "backup" / "a" / FILE_NAME
    other = apsw.Connection(str(file))
    other.execute(change)
    other.close()
    manifest = json.loads((tmp_path / "backup" / MANIFEST).read_text("utf-8"))
    manifest["collections"][0] |= {"size": file.stat().st_size, "sha256": digest_of(file)}
    (tmp_path / "backup" / MANIFEST).write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(DataLoss, match=r"the rows of `a/store\.db`, or its tables, are not those that were written"):
        restore(tmp_path / "backup", tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2, "more": 1}, "written by a later version of twinsight .format version 2; this one reads"),
        ({"format_version": 0}, "is damaged: `backup.json` can't be read: `format_version`"),
        ({"created_at": None}, "is damaged: `backup.json` can't be read: `created_at`"),
        ({"collections": [{"id": "../a"}]}, r"is damaged: `backup.json` can't be read: `collections\[0\]"),
        (
            {"collections": [{"id": "../a", "size": 1, "sha256": "", "item_count": 1, "next_seq": 1}]},
            "is damaged: `backup.json` can't be read: `id` .='../a'. is not a collection id",
        ),
        ({"collections": [{"id": "c", "size": 1, "sha256": "", "item_count": 1, "next_seq": 1}]}, "`c/store.db` is m"),
    ],
)
def test_a_manifest_that_is_none_or_of_a_later_version_is_refused(
    data: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    back_up(data, tmp_path / "backup")
    manifest = json.loads((tmp_path / "backup" / MANIFEST).read_text("utf-8"))
    (tmp_path / "backup" / MANIFEST).write_text(json.dumps(manifest | change), "utf-8")
    with pytest.raises(DataLoss, match=message):
        restore(tmp_path / "backup", tmp_path / "other")


def test_a_folder_without_a_manifest_is_no_backup(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"is not a backup: it has no `backup\.json`"):
        restore(tmp_path, tmp_path / "other")
    (tmp_path / MANIFEST).write_bytes(b"\xff{")
    with pytest.raises(DataLoss, match=r"is damaged: `backup\.json` can't be read"):
        restore(tmp_path, tmp_path / "other")


def test_the_commands_say_what_they_did_or_why_not(data: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    backup = str(tmp_path / "backup")
    done = run(backup_command, ["--data-dir", str(data), "--out", backup, "-c", "b"])
    size = (tmp_path / "backup" / "b" / FILE_NAME).stat().st_size
    assert (done.exit_code, done.stdout) == (0, f"{backup}/b: 30 items, {size} bytes\n")
    done = run(restore_command, [backup, "--data-dir", str(tmp_path / "other")])
    with closing(Catalog(tmp_path / "other", options=OPTIONS)) as catalog:
        key = catalog.get("b").key_id
    told = "" if key is None else f", encrypted with the key {key}"
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'other'}: collection b, 30 items{told}\n")
    done = run(restore_command, [backup, "--data-dir", str(tmp_path / "other")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "twinsight: Collection `b` already exists; nothing was restored.\n"


def test_a_full_disk_of_the_data_folder_is_not_said_to_be_the_backups(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(data, tmp_path / "backup")

    def filled(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))

    monkeypatch.setattr(shutil, "copyfile", filled)
    with pytest.raises(StorageFull, match="The disk of the data folder has no room for collection"):
        restore(tmp_path / "backup", tmp_path / "other")
    assert list((tmp_path / "other" / "collections").iterdir()) == []
