"""Collections taken out of backups: nothing of them is left, and the rest can be restored, whatever cuts it short."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from twinsight_core.collections.catalog import Catalog
from twinsight_core.commands.backups import backups as backups_command
from twinsight_core.errors import DataLoss, NotFound
from twinsight_core.host.whole_files import rewrite_whole
from twinsight_core.items import CollectionSpec, NewItem
from twinsight_core.storage import removing
from twinsight_core.storage.backups import MANIFEST, back_up, read_manifest
from twinsight_core.storage.data_folder import remove
from twinsight_core.storage.removing import left_over, take_out
from twinsight_core.storage.restoring import restore
from twinsight_core.storage.store import FILE_NAME


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup of `ann`, `bob` and `eve`."""
    with closing(Catalog(tmp_path / "data")) as catalog:
        for name in ("ann", "bob", "eve"):
            catalog.create(CollectionSpec(name, 4)).upsert([NewItem(f"of-{name}", np.ones(4, np.float32))])
    back_up(tmp_path / "data", tmp_path / "backup")
    return tmp_path / "backup"


def _restored(backup: Path, tmp_path: Path) -> list[str]:
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    return [entry.id for entry in restore(backup, tmp_path / "other")]


def test_nothing_is_left_of_what_is_taken_out_and_the_rest_is_as_it_was(backup: Path, tmp_path: Path) -> None:
    (backup / MANIFEST).chmod(0o640)
    before, sound = read_manifest(backup), (backup / "eve" / FILE_NAME).read_bytes()
    left = take_out(backup, ["bob", "ann", "bob"])
    assert left == read_manifest(backup)
    assert (left.created_at, left.collections) == (before.created_at, before.collections[2:])
    files = sorted(str(one.relative_to(backup)) for one in backup.rglob("*"))
    assert files == [MANIFEST, "eve", f"eve/{FILE_NAME}"]
    assert (backup / "eve" / FILE_NAME).read_bytes() == sound
    assert not [one for one in (backup / MANIFEST, backup / "eve" / FILE_NAME) if b"bob" in one.read_bytes()]
    assert (backup / MANIFEST).stat().st_mode & 0o777 == 0o640
    assert _restored(backup, tmp_path) == ["eve"]
    take_out(backup, ["eve"])
    assert json.loads((backup / MANIFEST).read_text("utf-8"))["collections"] == []
    assert _restored(backup, tmp_path) == []


@pytest.mark.parametrize(("step", "ids"), [("rewrite_whole", ["ann", "bob", "eve"]), ("remove", ["ann", "eve"])])
def test_a_backup_whose_change_was_cut_short_can_be_restored_and_changed_again(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, ids: list[str]
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(removing, step, cut)
        with pytest.raises(KeyboardInterrupt):
            take_out(backup, ["bob"])
    assert [entry.id for entry in read_manifest(backup).collections] == _restored(backup, tmp_path) == ids
    assert left_over(backup, read_manifest(backup)) == (["bob"] if step == "remove" else [])
    take_out(backup, ["bob"])
    assert sorted(one.name for one in backup.iterdir()) == ["ann", MANIFEST, "eve"]
    assert _restored(backup, tmp_path) == ["ann", "eve"]


def test_the_manifest_is_durable_before_anything_is_removed(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def synced(descriptor: int) -> None:
        steps.append(f"synced {Path(f'/proc/self/fd/{descriptor}').resolve().name}")

    def rewriting(path: Path, content: bytes) -> None:
        rewrite_whole(path, content)
        steps.append("manifest")

    def removed(path: Path) -> None:
        remove(path)
        steps.append("removed")

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr(removing, "rewrite_whole", rewriting)
    monkeypatch.setattr(removing, "remove", removed)
    take_out(backup, ["ann"])
    written, *others = steps
    assert written.startswith(f"synced .{MANIFEST}-")
    assert others == ["manifest", "synced backup", "removed", "synced backup"]


@pytest.mark.parametrize("name", ["carl", ".", "..", "../data", MANIFEST, "notes", ""])
def test_what_is_no_collection_of_the_backup_is_not_removed(backup: Path, tmp_path: Path, name: str) -> None:
    (backup / "notes").mkdir()
    (backup / "notes" / "mine.txt").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NotFound, match="does not exist; available: `ann`, `bob`, `eve`"):
        take_out(backup, ["ann", name])
    assert sorted(tmp_path.rglob("*")) == before
    assert len(read_manifest(backup).collections) == 3


def test_of_a_link_nothing_is_removed(backup: Path, tmp_path: Path) -> None:
    (backup / "bob").rename(tmp_path / "elsewhere")
    (backup / "bob").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataLoss, match=r"`bob` is a symbolic link\. Nothing was changed") as refused:
        take_out(backup, ["ann", "bob"])
    assert refused.value.reason == "BACKUP_DAMAGED"
    assert _restored(backup, tmp_path) == ["ann", "bob", "eve"]


def test_of_a_linked_file_nothing_is_removed(backup: Path, tmp_path: Path) -> None:
    (backup / "bob" / FILE_NAME).rename(tmp_path / "elsewhere.db")
    (backup / "bob" / FILE_NAME).symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(DataLoss, match=r"`bob/store\.db` is a symbolic link\. Nothing was changed; put the file"):
        take_out(backup, ["bob"])
    assert _restored(backup, tmp_path) == ["ann", "bob", "eve"]


def test_a_folder_that_is_no_backup_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    with pytest.raises(NotFound, match=r"is not a backup: it has no `backup\.json`"):
        take_out(tmp_path, ["ann"])
    assert (tmp_path / "ann").exists()


def test_the_commands_tell_what_is_there_and_what_was_removed(backup: Path) -> None:
    run = CliRunner().invoke
    size = (backup / "eve" / FILE_NAME).stat().st_size
    done = run(backups_command, ["remove", str(backup), "bob", "ann"])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{backup}: removed bob\n{backup}: removed ann\n{backup}: 1 collections left\n"
    manifest = json.loads((backup / MANIFEST).read_text("utf-8"))
    (backup / MANIFEST).write_text(json.dumps(manifest | {"created_at": 1772355600.5}), "utf-8")
    (backup / "ann").mkdir()
    done = run(backups_command, ["list", str(backup)])
    assert (done.exit_code, done.stdout) == (
        0,
        f"{backup}: made 2026-03-01 09:00:00 UTC, 1 collections\neve: 1 items, {size} bytes\n",
    )
    assert done.stderr == (
        "twinsight: `ann` exists but is not in the manifest: its removal was interrupted. Remove it again.\n"
    )
    done = run(backups_command, ["remove", str(backup), "bob"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "twinsight: Collection `bob` does not exist; available: `ann`, `eve`.\n"
    (backup / MANIFEST).write_text(json.dumps(manifest | {"created_at": 1e300}), "utf-8")
    done = run(backups_command, ["list", str(backup)])
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, f"{backup}: made at an unknown time, 1 collections")
