import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from twinsight_core.errors import TrainingError
from twinsight_core.images import DEFAULT_LIMITS, Preprocessing, decode
from twinsight_core.models.mobilenet import MobileNetV1
from twinsight_core.training.data import (
    PictureSource,
    decode_files,
    read_class_folders,
    split_classes,
)
from twinsight_core.training.files import Files, in_chunks
from twinsight_core.training.sampling import Share, rows_by_class, sample_rows
from twinsight_core.training.teacher import teacher_features

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


def mend(source: Path, file: str, content: bytes) -> None:
    """Puts another content in a file's place; a folder's own size and time stay as they are."""
    if source.is_dir():
        before = (source / file).stat()
        (source / file).write_bytes(content)
        os.utime(source / file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        return
    with zipfile.ZipFile(source, "w") as archive:
        for name, old in FILES.items():
            archive.writestr(name, content if name == file else old)


def test_a_file_that_is_mended_in_place_is_read_anew(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    old = read_class_folders(source, preprocessing=SMALL, cache_dir=cache)
    assert len(png(31)) == len(FILES["val/cat/3.png"])
    mend(source, "val/cat/3.png", png(31))
    new = read_class_folders(source, preprocessing=SMALL, cache_dir=cache)
    np.testing.assert_array_equal(new.images[:2], old.images[:2])
    np.testing.assert_array_equal(new.images[2], decode(png(31), SMALL))


def test_of_a_source_no_pixels_of_files_that_have_changed_are_kept(source: Path, tmp_path: Path) -> None:
    cache, other = tmp_path / "cache", tmp_path / "other" / source.name
    other.parent.mkdir()
    copy = shutil.copytree if source.is_dir() else shutil.copyfile
    copy(source, other)
    mend(other, "val/cat/3.png", png(77))
    sizes = SMALL, Preprocessing(height_px=4, width_px=4)

    def read(path: Path, size: Preprocessing = SMALL) -> set[str]:
        read_class_folders(path, preprocessing=size, cache_dir=cache)
        return {one.name for one in cache.iterdir()}

    of_other = read(other)
    assert len(of_other) == 2  # pixels, and what is known of them
    (cache / "notes.json").write_text("[1]")
    (cache / "torn.json").write_text("{")
    before = [read(source, size) for size in sizes][-1]
    assert len(before) == 8
    mend(source, "val/cat/3.png", png(31))
    after = read(source)
    # Those of both sizes are gone; those of another source of that name, and what else lies there, are not.
    assert len(after) == 6
    assert of_other | {"notes.json", "torn.json"} == before & after


class Colours(nnx.Module):
    """Stands for a teacher whose features are the mean colours, scaled."""

    def __init__(self, scale: float) -> None:
        self.scale = nnx.Param(jnp.full(3, scale))

    def __call__(self, images: jax.Array) -> jax.Array:
        return images * self.scale[...]


def test_the_teachers_features_are_kept_by_what_they_are_of(source: Path, tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "set-teacher.npy"

    def features(scale: float = 1.0, size_px: int = 8) -> list[list[float]]:
        pictures = read_class_folders(source, preprocessing=SMALL)
        backbone = cast("MobileNetV1", Colours(scale))
        found: list[list[float]] = teacher_features(backbone, source, pictures, size_px=size_px, cache=kept).tolist()
        return found

    assert features() == [[10, 0, 245], [20, 0, 235], [30, 0, 225]]
    (file,) = kept.parent.iterdir()
    written = file.stat().st_mtime_ns
    assert features() == [[10, 0, 245], [20, 0, 235], [30, 0, 225]]
    assert file.stat().st_mtime_ns == written
    features(size_px=4)
    assert len(list(kept.parent.iterdir())) == 2
    assert features(scale=2.0)[0] == [20, 0, 490]
    mend(source, "val/cat/3.png", png(200))
    assert features() == [[10, 0, 245], [20, 0, 235], [200, 0, 55]]


def test_a_cache_that_can_not_be_written_is_told(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(TrainingError, match=r"cache: can't write the decoded pictures \(File exists\)\.$"):
        read_class_folders(source, preprocessing=SMALL, cache_dir=tmp_path / "cache")


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
    with pytest.raises(TrainingError, match=r"there are no pictures in a class folder\.$"):
        PictureSource(tmp_path)
    with pytest.raises(TrainingError, match=r"none: no such folder or zip\.$"):
        PictureSource(tmp_path / "none")
    with pytest.raises(TrainingError, match=r"1\.png: neither a folder nor a zip\.$"):
        PictureSource(tmp_path / "1.png")


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog", "train/owl"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "cat" / "1.png").write_bytes(png(1))
    with pytest.raises(TrainingError, match=r"these folders hold no pictures: dog, train/owl\.$"):
        PictureSource(tmp_path)


@pytest.mark.parametrize("cached", [True, False])
def test_every_picture_that_can_not_be_read_is_named_or_left_out(tmp_path: Path, cached: bool) -> None:
    contents = {"cat/1.png": png(1), "cat/2.png": png(2)[:40], "dog/3.png": b"no picture", "dog/4.png": png(4)}
    for name, content in contents.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    cache = tmp_path / "cache" if cached else None
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"2 pictures can't be read.*:\n  cat/2\.png: .*\n  dog/3\.png: "):
            read_class_folders(tmp_path / "set", preprocessing=SMALL, cache_dir=cache)
        good = read_class_folders(tmp_path / "set", preprocessing=SMALL, cache_dir=cache, skip_bad=True)
        assert good.files == ("cat/1.png", "dog/4.png")
        assert [one.partition(": ")[0] for one in good.skipped] == ["cat/2.png", "dog/3.png"]
        assert all(one.partition(": ")[2] for one in good.skipped)
        np.testing.assert_array_equal(good.images[1], decode(png(4), SMALL))
        np.testing.assert_array_equal(good.labels, [0, 1])


def test_of_many_bad_pictures_none_is_only_counted(tmp_path: Path) -> None:
    data = written(tmp_path / "set", "cat/good.png")
    names = [f"cat/{number:03}.png" for number in range(120)]
    for name in names:
        (data / name).write_bytes(b"no picture")
    with pytest.raises(TrainingError) as raised:
        read_class_folders(data, preprocessing=SMALL)
    assert [line.split(":")[0].strip() for line in raised.value.message.splitlines()[1:]] == names


def zeros(size: int) -> bytes:
    """A file that starts like a PNG and compresses a thousandfold."""
    return b"\x89PNG\r\n\x1a\n" + bytes(size - 8)


def with_bytes(content: bytes, change: tuple[bytes, bytes]) -> bytes:
    assert content.count(change[0]) >= 1
    return content.replace(*change)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A zip with one good picture a class; every other entry is damaged or crafted in its own way."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("cat/1.png", png(1))
        archive.writestr("cat/bomb.png", zeros(DEFAULT_LIMITS.max_bytes + 1), zipfile.ZIP_DEFLATED)
        archive.writestr("cat/crc.png", png(2) + b"checked")
        archive.writestr("cat/method.png", png(3), zipfile.ZIP_LZMA)
        archive.writestr("cat/secret.png", png(5))
        archive.writestr("cat/torn.png", b"deflated " * 50, zipfile.ZIP_DEFLATED)
        archive.writestr("dog/2.png", png(4))
        entries = {one.filename: one for one in archive.infolist()}
    content = bytearray(packed.getvalue().replace(b"checked", b"chEcked"))
    # The first bit of the general purpose flags, in the local header and in the directory: APPNOTE 4.4.4.
    secret = entries["cat/secret.png"].header_offset
    content[secret + 6] |= 1
    content[content.rindex(b"cat/secret.png") - 46 + 8] |= 1
    torn = entries["cat/torn.png"].header_offset + 30 + len("cat/torn.png")
    content[torn] = 0x07  # no kind of block: RFC 1951, 3.2.3
    path = tmp_path / "hostile.zip"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("cached", [True, False])
def test_damaged_and_crafted_entries_are_flaws_of_their_pictures(hostile: Path, tmp_path: Path, cached: bool) -> None:
    cache = tmp_path / "cache" if cached else None
    with pytest.raises(TrainingError) as raised:
        read_class_folders(hostile, preprocessing=SMALL, cache_dir=cache)
    for flaw in (
        "5 pictures can't be read",
        "cat/bomb.png: The file has 16,777,217 bytes; the limit is 16,777,216.",
        "cat/crc.png: The zip's entry can't be read (Bad CRC-32 for file 'cat/crc.png').",
        "cat/method.png: The zip's entry can't be read (its compression is not deflate).",
        "cat/secret.png: The zip's entry can't be read (it is encrypted).",
        "cat/torn.png: The zip's entry can't be read (Error -3 while decompressing data: invalid block type).",
    ):
        assert flaw in raised.value.message
    good = read_class_folders(hostile, preprocessing=SMALL, cache_dir=cache, skip_bad=True)
    assert (good.files, len(good.images), len(good.skipped)) == (("cat/1.png", "dog/2.png"), 2, 5)
    np.testing.assert_array_equal(good.images[1], decode(png(4), SMALL))


def test_an_entry_that_holds_more_than_it_says_is_not_unpacked_further(tmp_path: Path) -> None:
    content = zeros(1_000_000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("cat/1.png", content, zipfile.ZIP_DEFLATED)
    size, lie = len(content).to_bytes(4, "little"), (100).to_bytes(4, "little")
    (tmp_path / "set.zip").write_bytes(with_bytes(packed.getvalue(), (size, lie)))
    with pytest.raises(ValueError, match=r"^The zip's entry can't be read \(Bad CRC-32"):
        Files(tmp_path / "set.zip").read("cat/1.png")


def test_a_file_of_a_folder_that_is_too_large_or_locked_is_a_flaw(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(png(1))
    with (tmp_path / "cat" / "2.png").open("wb") as file:
        file.truncate(DEFAULT_LIMITS.max_bytes + 1)
    source = PictureSource(tmp_path)
    with pytest.raises(ValueError, match=r"^The file has 16,777,217 bytes; the limit is 16,777,216\.$"):
        source.read("cat/2.png")
    with pytest.raises(ValueError, match=r"^The file has \d+ bytes; the limit is 10\.$"):
        source.read("cat/1.png", most_bytes=10)
    (tmp_path / "cat" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"^The file can't be read \(No such file or directory\)\.$"):
        source.read("cat/2.png")
    with pytest.raises(TrainingError, match=r"1 pictures can't be read; .*:\n  cat/2\.png: The file can't be read"):
        decode_files(source, source.files, preprocessing=SMALL)


def test_few_bytes_are_held_at_a_time(tmp_path: Path) -> None:
    large = DEFAULT_LIMITS.max_bytes
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/large.png", zeros(large))
        archive.writestr("a/small.png", b"1")
    files = Files(tmp_path / "set.zip")
    chunks = in_chunks(files, ["a/large.png"] * 6 + ["a/small.png"] * 70)
    assert [len(chunk) for chunk in chunks] == [4, 64, 8]


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
        ValueError, match=r"^`validation` \(=1\) and `test` \(=1\) must leave at least 1 of 2 classes to train on\.$"
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


def written(path: Path, *files: str) -> Path:
    for number, name in enumerate(files):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(png(number))
    return path


def test_links_to_folders_are_followed_and_those_in_a_circle_are_not(tmp_path: Path) -> None:
    written(tmp_path / "else" / "dogs", "1.png", "deep/2.png")
    data = written(tmp_path / "set", "cat/1.png")
    (data / "dog").symlink_to(tmp_path / "else" / "dogs")
    (data / "hound").symlink_to(data / "dog")
    (data / "cat" / "round").symlink_to(data)
    (tmp_path / "else" / "dogs" / "deep" / "up").symlink_to("..")
    (data / "cat" / "2.png").symlink_to(tmp_path / "else" / "dogs" / "1.png")
    pictures = read_class_folders(data, preprocessing=SMALL)
    of_dogs = ("dog/1.png", "dog/deep/2.png", "hound/1.png", "hound/deep/2.png")
    assert pictures.files == ("cat/1.png", "cat/2.png", *of_dogs)
    assert pictures.classes == ("cat", "dog", "dog/deep", "hound", "hound/deep")


@pytest.mark.parametrize("suffix", [".gif", ".bmp", ".tif", ".TIFF", ".heic", ".avif", ".jfif"])
def test_a_folder_of_pictures_of_another_format_is_refused(tmp_path: Path, suffix: str) -> None:
    data = written(tmp_path / "set", "cat/1.png", f"dog/1{suffix}", f"birds/owl/1{suffix}")
    with pytest.raises(TrainingError, match=r"these folders hold no pictures: birds/owl, dog\.$"):
        read_class_folders(data, preprocessing=SMALL, skip_bad=True)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("cat/1.png", f"dog/1{suffix}"):
            archive.writestr(name, png(1))
    with pytest.raises(TrainingError, match=r"these folders hold no pictures: dog\.$"):
        PictureSource(tmp_path / "set.zip")


@pytest.mark.parametrize("cached", [True, False])
def test_pictures_of_another_format_and_dangling_links_are_named_or_left_out(tmp_path: Path, cached: bool) -> None:
    data = written(tmp_path / "set", "cat/1.png", "cat/2.gif", "dog/1.jpeg", "dog/2.JFIF")
    (data / "cat" / "3.png").symlink_to(tmp_path / "gone.png")
    (data / "owl").symlink_to(tmp_path / "gone")
    (data / "dog" / "self").symlink_to("self")
    cache = tmp_path / "cache" if cached else None
    with pytest.raises(TrainingError) as raised:
        read_class_folders(data, preprocessing=SMALL, cache_dir=cache)
    other = "Its format is not supported; names must end in .jpeg, .jpg, .png or .webp."
    nothing = "It is a link to a file that does not exist."
    assert raised.value.message.endswith(
        f"5 pictures can't be read; --skip-bad leaves them out:\n  cat/2.gif: {other}\n  cat/3.png: {nothing}\n"
        f"  dog/2.JFIF: {other}\n  dog/self: {nothing}\n  owl: {nothing}"
    )
    good = read_class_folders(data, preprocessing=SMALL, cache_dir=cache, skip_bad=True)
    assert good.files == ("cat/1.png", "dog/1.jpeg")
    assert "\n".join(f"  {one}" for one in good.skipped) == raised.value.message.partition("\n")[2]


def test_hidden_files_and_those_that_are_no_pictures_are_passed_over(tmp_path: Path) -> None:
    names = ("README", "words.txt", "1.json", ".DS_Store", "Thumbs.db", "._1.png", ".thumbnails/1.png", ".empty/.keep")
    data = written(tmp_path / "set", "cat/1.png", *(f"cat/{name}" for name in names), "__MACOSX/cat/._1.png")
    (data / "cat" / ".lock").symlink_to("nobody@nowhere")
    assert PictureSource(data).files == ("cat/1.png",)


def test_a_zip_may_begin_names_with_the_folder_that_it_was_packed_in(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.mkdir("./cat")
        archive.writestr("./cat/1.png", png(1))
    assert PictureSource(tmp_path / "set.zip").files == ("./cat/1.png",)


def test_a_folder_without_pictures_is_no_class_of_a_list_of_pairs(tmp_path: Path) -> None:
    data = written(tmp_path, "1.png", "notes/a.txt")
    assert PictureSource(data, class_folders=False).files == ("1.png",)


def test_a_folder_that_can_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(tmp_path, "cat/1.png", "dog/1.png")
    scan = os.scandir

    def locked(path: Path) -> object:
        if path.name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(TrainingError, match=r"/dog: can't be read \(Permission denied\)\.$"):
        PictureSource(data)
