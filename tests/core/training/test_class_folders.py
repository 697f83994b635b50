import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image as Pillow

from twinsight_core.errors import TrainingError
from twinsight_core.images import Preprocessing
from twinsight_core.training.class_folders import classes_of
from twinsight_core.training.data import read_class_folders

SMALL = Preprocessing(height_px=8, width_px=8)


def png() -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (10, 12)).save(buffer, "PNG")
    return buffer.getvalue()


def written(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png())
    return folder


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (["train/cat/1.png", "val/cat/2.png", "val/dog/3.png"], ["cat", "cat", "dog"]),
        (["Greek/alpha/1.png", "Greek/beta/1.png", "Latin/a/1.png"], ["Greek/alpha", "Greek/beta", "Latin/a"]),
        (["set/images/cat/1.png", "set/images/dog/1.png"], ["cat", "dog"]),
        (["cat/1.png"], ["cat"]),
        (["train/1.png", "cat/1.png"], ["train", "cat"]),
        (["id/valid/1.png", "id/invalid/2.png", "visa/valid/3.png"], ["id/valid", "id/invalid", "visa/valid"]),
        (["set/train/id/test/1.png", "set/val/ticket/2.png"], ["id/test", "ticket"]),
        (["test/1.png", "test/deep/2.png", "bus/3.png"], ["test", "test/deep", "bus"]),
        (["cafe\u0301/1.png", "caf\xe9/2.png", "cat/1.png"], ["caf\xe9", "caf\xe9", "cat"]),
    ],
)
def test_a_class_is_named_by_what_its_path_does_not_share(files: list[str], classes: list[str]) -> None:
    assert classes_of(files) == classes


@pytest.mark.parametrize(
    ("names", "parts", "train"),
    [
        (("train/cat/1.png", "val/cat/2.png", "test/cat/3.png"), "test, train, val", "train"),
        (("Training/cat/1.png", "Validation/dog/2.png"), "Training, Validation", "Training"),
        (("sets/train/cat/1.png", "sets/test/2/cat/2.png"), "test, train", "sets/train"),
        (("train/cat/1.png", "Dev/cat/2.png", "bus/3.png"), "Dev, train", "train"),
    ],
)
def test_data_that_come_in_parts_are_not_mixed(names: tuple[str, ...], parts: str, train: str, tmp_path: Path) -> None:
    data = written(tmp_path / "set", *names)
    with pytest.raises(TrainingError) as raised:
        read_class_folders(data, preprocessing=SMALL, one_part=True)
    assert raised.value.reason == "DATA_IN_PARTS"
    assert raised.value.message == (
        f"{(data / train).parent}: the data comes in parts ({parts}), which would be mixed. Name one: train with "
        f"`--data {data / train}` (training holds out pictures itself), and measure on another with "
        "`twinsight evaluate`. If they are classes, rename the folders."
    )
    assert len(read_class_folders(data / train, preprocessing=SMALL, one_part=True)) == 1


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.png", "test/2.png", "bus/3.png"),  # vehicles, and what is done to them
        ("train/cat/1.png", "train/dog/2.png"),
        ("val/cat/1.png", "test/cat/2.png"),
        ("a/train/cat/1.png", "b/test/cat/2.png"),
        ("train/steam/1.png", "plane/jet/2.png"),
    ],
)
def test_classes_are_no_parts_and_one_part_is_not_mixed(names: tuple[str, ...], tmp_path: Path) -> None:
    data = written(tmp_path / "set", *names)
    assert len(read_class_folders(data, preprocessing=SMALL, one_part=True)) == len(names)


def test_loose_pictures_beside_class_folders_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = written(tmp_path / "set", "cat/1.png", "2.png", "1.png", ".3.png")
    (data / "notes.txt").write_text("no picture")
    with caplog.at_level("WARNING"):
        assert read_class_folders(data, preprocessing=SMALL).files == ("cat/1.png",)
    assert caplog.messages == [f"{data}: ignoring 2 pictures outside the class folders, such as 1.png"]


def test_parts_of_a_zip_are_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("train/cat/1.png", "test/cat/2.png"):
            archive.writestr(name, png())
    with pytest.raises(TrainingError, match=r"` of the unpacked zip \(training holds out"):
        read_class_folders(tmp_path / "set.zip", preprocessing=SMALL, one_part=True)


def test_a_class_of_which_nothing_can_be_read_is_not_left_out(tmp_path: Path) -> None:
    data = written(tmp_path / "set", "hats/cap/1.png", "hats/top/1.png", "shoes/1.png", "shoes/2.png")
    for name in ("hats/top/1.png", "shoes/1.png"):
        (data / name).write_bytes(b"no picture")
    with pytest.raises(TrainingError) as raised:
        read_class_folders(data, preprocessing=SMALL, skip_bad=True)
    assert raised.value.reason == "CLASS_EMPTY"
    heading, line = raised.value.message.splitlines()
    assert heading == f"{data}: these classes have no readable picture and would be lost: hats/top:"
    assert line.startswith("  hats/top/1.png: ")
