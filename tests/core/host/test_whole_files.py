from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from twinsight_core.host import whole_files
from twinsight_core.host.whole_files import behind_links, exchanged, rewrite_whole, rewriting, write_whole

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")


def test_a_new_file_is_its_writers_alone_and_a_rewritten_one_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    rewrite_whole(file, b"old")
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    rewrite_whole(file, b"new")
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_pipe_or_device_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="not a regular file"):
        write_whole(pipe, b"1")
    assert pipe.is_fifo()


def test_what_a_full_disk_keeps_from_being_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    file = tmp_path / "keys.json"
    file.write_bytes(b"old")
    with pytest.raises(OSError, match="No space") as caught:
        rewrite_whole(file, b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@as_root
def test_what_root_rewrites_stays_its_owners_and_its_groups(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(b"old")
    os.chown(file, 64_001, 64_002)
    rewrite_whole(file, b"new")
    assert (file.stat().st_uid, file.stat().st_gid) == (64_001, 64_002)
    assert file.read_bytes() == b"new"


@as_root
def test_a_file_that_cant_be_given_to_its_owner_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(b"old")
    os.chown(file, 64_001, 64_002)

    def refuse(_: int, user: int, group: int) -> None:
        assert (user, group) == (64_001, 64_002)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(PermissionError, match="belongs to 64001:64002, to whom a new file can't be given") as refused:
        rewrite_whole(file, b"new")
    assert refused.value.filename == str(file)
    assert "Run this as root, or as 64001 in the group 64002." in str(refused.value)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_links_are_followed_to_their_end_which_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file = tmp_path / "real" / "keys.json"
    assert behind_links(file) == file
    file.touch()
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "link").symlink_to("folder/keys.json")
    assert behind_links(tmp_path / "link") == file
    (tmp_path / "nowhere").symlink_to("real/none")
    (tmp_path / "circle").symlink_to("circle")
    for link, said in (("nowhere", "No such file"), ("circle", "Too many levels")):
        with pytest.raises(OSError, match=said):
            behind_links(tmp_path / link)


def test_a_file_in_a_folder_that_a_server_keeps_locked_is_rewritten_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(b"old")
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        with rewriting(file) as place:
            rewrite_whole(place, b"new")
    finally:
        os.close(folder)
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("is_there", [True, False])
def test_who_rewrites_a_file_waits_for_the_one_before(tmp_path: Path, *, is_there: bool) -> None:
    file = tmp_path / "keys.json"
    if is_there:
        file.write_bytes(b"0")

    def add_one() -> None:
        with rewriting(file) as place:
            count = int(file.read_bytes()) if file.exists() else 0
            rewrite_whole(place, str(count + 1).encode())

    threads = [threading.Thread(target=add_one) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert file.read_bytes() == b"8"


def test_two_folders_are_exchanged_in_one_step_or_not_at_all(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    if not exchanged(one, other):
        pytest.skip("the file system exchanges no folders")
    assert [[file.name for file in folder.iterdir()] for folder in (one, other)] == [["other"], ["one"]]
    with pytest.raises(FileNotFoundError):
        exchanged(one, tmp_path / "gone")
    assert one.is_dir()


def test_who_waits_too_long_for_a_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_files, "LONGEST_WAIT_S", 0.1)
    file = tmp_path / "keys.json"
    file.write_bytes(b"old")
    with rewriting(file), pytest.raises(TimeoutError, match="another process has locked"), rewriting(file):
        pass
    with rewriting(file):
        pass
