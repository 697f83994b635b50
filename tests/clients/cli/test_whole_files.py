from pathlib import Path
from typing import BinaryIO

import pytest
from PIL import Image

from twinsight_client.cli.whole_files import save_picture

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


def test_a_suffix_of_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^unknown file extension: \.txt$"):
        save_picture(Image.new("RGB", (8, 8)), tmp_path / "a.txt")
