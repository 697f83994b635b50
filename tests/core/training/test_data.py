import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from twinsight_core.errors import TrainingError
from twinsight_core.images import Preprocessing, decode
from twinsight_core.training.data import (
    PictureSource,
    classes_of,
    decode_files,
    read_class_folders,
    split_classes,
)
from twinsight_core.training.sampling import Share, rows_by_class, sample_rows

SMALL = Preprocessing(height_px=8, width_px=8)


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Pillow.new("RGB", (10, 12), (value, 0, 255 - value)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {"train/cat/1.png": png(10), "train/dog/2.PNG": png(20), "val/cat/3.png": png(30), "words.txt": b"cat"}


@pytest.fixture(params=["folder", "zip"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "zip":
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for name, content in FILES.items():
                archive.writestr(name, content)
        return tmp_path / "set.zip"
    for name, content in FILES.items():
        file = tmp_path / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "set"


def test_the_class_is_the_last_folder_and_pixels_are_those_that_serving_decodes(source: Path) -> None:
    pictures = read_class_folders(source, preprocessing=SMALL)
    assert pictures.files == ("train/cat/1.png", "train/dog/2.PNG", "val/cat/3.png")
    assert pictures.classes == ("cat", "dog")
    np.testing.assert_array_equal(pictures.labels, [0, 1, 0])
    for row, file in enumerate(pictures.files):
        np.testing.assert_array_equal(pictures.images[row], decode(FILES[file], SMALL))


def test_decoded_pixels_are_kept_and_read_again(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = read_class_folders(source, preprocessing=SMALL, cache_dir=cache)
    (kept,) = cache.glob("*.npy")
    written = kept.stat().st_mtime_ns
    second = read_class_folders(source, preprocessing=SMALL, cache_dir=cache)
    np.testing.assert_array_equal(first.images, second.images)
    assert kept.stat().st_mtime_ns == written
    read_class_folders(source, preprocessing=Preprocessing(height_px=4, width_px=4), cache_dir=cache)
    assert len(list(cache.glob("*.npy"))) == 2


def test_an_edit_gets_the_bytes_before_they_are_decoded(source: Path) -> None:
    seen = {}

    def edit(encoded: bytes, file: str) -> bytes:
        seen[file] = encoded
        return png(99)

    pixels = decode_files(PictureSource(source), ["val/cat/3.png"], preprocessing=SMALL, edit=edit)
    assert seen == {"val/cat/3.png": FILES["val/cat/3.png"]}
    np.testing.assert_array_equal(pixels[0], decode(png(99), SMALL))


def test_a_source_without_class_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    with pytest.raises(TrainingError, match=r"holds no picture in a class folder\.$"):
        PictureSource(tmp_path)
    with pytest.raises(TrainingError, match=r"none: there is no such folder or zip\.$"):
        PictureSource(tmp_path / "none")
    with pytest.raises(TrainingError, match=r"1\.png: neither a folder nor a zip\.$"):
        PictureSource(tmp_path / "1.png")


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog", "train/owl"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "cat" / "1.png").write_bytes(png(1))
    with pytest.raises(TrainingError, match=r"these folders hold no picture: dog, train/owl\.$"):
        PictureSource(tmp_path)


@pytest.mark.parametrize("cached", [True, False])
def test_every_picture_that_can_not_be_read_is_named_or_left_out(tmp_path: Path, cached: bool) -> None:
    contents = {"cat/1.png": png(1), "cat/2.png": png(2)[:40], "dog/3.png": b"no picture", "dog/4.png": png(4)}
    for name, content in contents.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    cache = tmp_path / "cache" if cached else None
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"2 pictures can't be read.*: cat/2\.png \(.*\), dog/3\.png \("):
            read_class_folders(tmp_path / "set", preprocessing=SMALL, cache_dir=cache)
        good = read_class_folders(tmp_path / "set", preprocessing=SMALL, cache_dir=cache, skip_bad=True)
        assert (good.files, good.skipped) == (("cat/1.png", "dog/4.png"), ("cat/2.png", "dog/3.png"))
        np.testing.assert_array_equal(good.images[1], decode(png(4), SMALL))
        np.testing.assert_array_equal(good.labels, [0, 1])


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (["train/cat/1.png", "val/cat/2.png", "val/dog/3.png"], ["cat", "cat", "dog"]),
        (["Greek/alpha/1.png", "Greek/beta/1.png", "Latin/a/1.png"], ["Greek/alpha", "Greek/beta", "Latin/a"]),
        (["set/images/cat/1.png", "set/images/dog/1.png"], ["cat", "dog"]),
        (["cat/1.png"], ["cat"]),
        (["train/1.png", "cat/1.png"], ["train", "cat"]),
    ],
)
def test_a_class_is_named_by_what_its_path_does_not_share(files: list[str], classes: list[str]) -> None:
    assert classes_of(files) == classes


def test_classes_in_one_folder_are_of_one_group(tmp_path: Path) -> None:
    for name in ("Greek/alpha", "Greek/beta", "Latin/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").write_bytes(png(1))
    pictures = read_class_folders(tmp_path, preprocessing=SMALL)
    np.testing.assert_array_equal(pictures.groups(), [0, 0, 1])


def test_the_split_is_of_whole_classes_and_does_not_depend_on_their_order() -> None:
    names = [f"class{number}" for number in range(20)]
    split = split_classes(names, validation=3, test=5)
    assert sorted(split.train + split.validation + split.test) == sorted(names)
    assert (len(split.train), len(split.validation), len(split.test)) == (12, 3, 5)
    assert split_classes(names[::-1], validation=3, test=5) == split


def test_a_split_must_leave_something_to_train_on() -> None:
    with pytest.raises(
        ValueError, match=r"^`validation` \(=1\) and `test` \(=1\) must leave a class of 2 to train on\.$"
    ):
        split_classes(["a", "b"], validation=1, test=1)


@given(seed=st.integers(0, 1000), step=st.integers(0, 10**6))
def test_a_batch_holds_its_share_of_classes_and_depends_on_the_step_alone(seed: int, step: int) -> None:
    labels = np.repeat([0, 1, 2, 3], [5, 5, 2, 5])
    shares = [
        Share(rows=rows_by_class(labels), classes=3),
        Share(rows=rows_by_class(np.array([0, 0, 1, 1]), first=len(labels)), classes=1),
    ]
    rows = sample_rows(shares, pictures=3, seed=seed, step=step)
    np.testing.assert_array_equal(rows, sample_rows(shares, pictures=3, seed=seed, step=step))
    of = np.concatenate([labels, [4, 4, 5, 5]])[rows].reshape(4, 3)
    assert (of == of[:, :1]).all()
    assert len(set(of[:, 0])) == 4
    assert (of[:3] <= 3).all()
    assert (of[3] >= 4).all()
    # Where a class has enough pictures none comes twice.
    assert all(
        len(set(group)) == 3 for group, label in zip(rows.reshape(4, 3), of[:, 0], strict=True) if label in (0, 1, 3)
    )


def test_a_share_can_not_want_more_classes_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"^`classes` \(=3\) must lie in 1\.\.2, the classes there are\.$"):
        Share(rows=rows_by_class(np.array([0, 1])), classes=3)
