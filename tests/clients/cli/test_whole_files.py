import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image

from twinsight_client.cli.whole_files import check_replaceable, save_picture, whole_file

pytestmark = pytest.mark.client


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a" * 250 + ".png"])
def test_a_picture_is_written_in_the_format_of_its_suffix_over_what_was_there(tmp_path: Path, name: str) -> None:
    for colour in ("red", "blue"):
        save_picture(Image.new("RGB", (8, 8), colour), tmp_path / name)
    with Image.open(tmp_path / name) as written:
        assert written.format == ("JPEG" if name.endswith("JPG") else "PNG")
        assert written.convert("RGB").getpixel((0, 0)) == (0, 0, 254 if name.endswith("JPG") else 255)
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("ended", [KeyboardInterrupt, OSError])
def test_what_ends_the_writing_leaves_the_earlier_picture_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: type[BaseException]
) -> None:
    file = tmp_path / "a.png"
    save_picture(Image.new("RGB", (8, 8), "red"), file)
    before = file.read_bytes()

    def half(_picture: Image.Image, file: BinaryIO, **_how: object) -> None:
        file.write(before[:20])
        raise ended

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(ended):
        save_picture(Image.new("RGB", (8, 8), "blue"), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_pipe_or_device_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for out in (pipe, link):
        with pytest.raises(OSError, match="not a regular file") as early:
            check_replaceable(out)
        with pytest.raises(OSError, match="not a regular file"), whole_file(out):
            pass
        assert early.value.filename == str(out)
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


def test_nor_is_what_a_process_has_open(tmp_path: Path) -> None:
    link = tmp_path / "link"
    with (tmp_path / "a.png").open("wb") as file:
        link.symlink_to(f"/dev/fd/{file.fileno()}")
        for out in (Path(f"/proc/self/fd/{file.fileno()}"), Path(f"/dev/fd/{file.fileno()}"), link):
            with pytest.raises(OSError, match="not a regular file"):
                check_replaceable(out)
    other = tmp_path / "other"
    other.symlink_to("a.png")
    check_replaceable(other)


def test_a_path_that_no_file_can_have_is_told_by_its_name(tmp_path: Path) -> None:
    circle, long = tmp_path / "circle", tmp_path / ("a" * 300)
    circle.symlink_to(circle)
    for out in (circle, long):
        with pytest.raises(OSError, match=r"Too many levels|File name too long") as told:
            check_replaceable(out)
        assert told.value.filename == str(out)


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "a.jsonl"
    link.symlink_to(Path("there") / "b.jsonl")
    for content in (b"1", b"2"):
        check_replaceable(link)
        with whole_file(link) as file:
            file.write(content)
    assert link.is_symlink()
    assert link.read_bytes() == b"2"
    assert [one.name for one in (tmp_path / "there").iterdir()] == ["b.jsonl"]


def test_a_folder_that_cannot_be_opened_holds_the_file_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def refuse(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if Path(path) == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))  # as Windows does
        return open_file(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with whole_file(tmp_path / "a") as file:
        file.write(b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


@pytest.mark.parametrize("missing", [True, False])
def test_where_no_file_can_be_written_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    out = tmp_path / ("x/a" if missing else "a")
    with pytest.raises(FileNotFoundError if missing else PermissionError) as told:
        check_replaceable(out)
    assert told.value.filename == str(out)


def test_a_suffix_of_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^unknown file extension: \.txt$"):
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "a.txt")
