import os
import sys
from pathlib import Path

import pytest

from twinsight_core.errors import TrainingError
from twinsight_core.images import Preprocessing
from twinsight_core.training.boxes import read_voc
from twinsight_core.training.data import PictureSource
from twinsight_core.training.files import check_names

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are no text")


def written(path: Path, name: bytes, content: bytes = b"") -> None:
    """Writes a file whose path in a folder is some bytes."""
    file = path / os.fsdecode(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def test_class_folders_whose_names_are_not_utf8_are_named_with_their_bytes(tmp_path: Path) -> None:
    written(tmp_path, "café/1.png".encode())
    assert PictureSource(tmp_path).files == ("café/1.png",)
    written(tmp_path, "café/0.png".encode("latin-1"))
    written(tmp_path, b"caf\xc3\xa9/\xff.txt")
    with pytest.raises(TrainingError) as raised:
        PictureSource(tmp_path)
    assert raised.value.reason == "NAME_NOT_UTF8"
    assert raised.value.message == rf"{tmp_path}: names must be UTF-8; these are not: caf\xe9/0.png."


def test_a_source_whose_own_name_is_not_utf8_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"/caf\\xe9: names must be UTF-8; these are not: caf\\xe9\.$"):
        check_names(tmp_path / os.fsdecode("café".encode("latin-1")), ())


def test_pictures_with_boxes_must_have_such_names_too(tmp_path: Path) -> None:
    written(tmp_path, b"JPEGImages/caf\xe9.png")
    written(tmp_path, b"Annotations/caf\xe9.xml", b"<annotation></annotation>")
    with pytest.raises(TrainingError, match=r"these are not: JPEGImages/caf\\xe9\.png\.$"):
        read_voc(tmp_path, preprocessing=Preprocessing(height_px=8, width_px=8))
