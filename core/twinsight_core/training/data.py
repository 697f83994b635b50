"""Labelled pictures from class folders, split by whole classes or within them.

A source is a folder or a zip (stored or compressed) whose pictures lie in one folder a class. A class is named by the
path of its folder, without what all paths share and without the name of a part in front (`class_folders`):
`train/cat/1.jpg` and `val/cat/2.jpg` are of the class `cat`, and `Greek/alpha/1.png` is of `Greek/alpha`, in the group
`Greek`. Pictures go through `twinsight_core.images.decode`: training sees exactly the pixels that serving sees, and
every file that can't be read is told of before training begins. Of a file no more is read than serving would accept,
whatever a zip unpacks to. Pictures of other formats and links that lead to nothing are such files; hidden files and
those that are no pictures by their name (README, .txt, .json) are passed over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypedDict

import numpy as np

from twinsight_core.errors import InvalidImage, TrainingError
from twinsight_core.host.cores import core_count
from twinsight_core.images import DEFAULT_LIMITS, Preprocessing, decode
from twinsight_core.training.class_folders import check_one_part, classes_of
from twinsight_core.training.files import Files, check_names, in_chunks, is_shown

_LOG = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
OTHER_PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".pgm", ".ppm", ".tif", ".tiff"}
)
"""What pictures are called that are not accepted: more likely forgotten than meant to be left out."""
# Raised when the cache's layout or what pictures are decoded to changes, so that an old cache is not read.
CACHE_VERSION = 5


@dataclass(frozen=True)
class LabelledImages:
    """Pictures with their classes.

    Attributes:
        images: [count, height, width, 3] uint8, RGB, 0..255; may be mapped from a file, read-only.
        labels: [count] int32, index into `classes`.
        classes: names of the classes, sorted.
        files: [count] path of each picture inside its source.
        skipped: what can't be read and was left out: the path of each and what is wrong with it.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    files: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def groups(self) -> np.ndarray:
        """Returns the group of each class, [classes] int32: classes in one folder are of one group."""
        parents = [name.rpartition("/")[0] for name in self.classes]
        return np.unique(parents, return_inverse=True)[1].astype(np.int32)

    def of_classes(self, classes: Sequence[str]) -> LabelledImages:
        """Returns the pictures of some of the classes, in their order; labels count these classes alone.

        Raises:
            TrainingError: no class is left.
        """
        kept = tuple(sorted(set(classes) & set(self.classes)))
        if not kept:
            raise TrainingError("No class is left to train on.", reason="CLASSES_TOO_FEW")
        numbers = np.full(len(self.classes), -1, np.int32)
        numbers[[self.classes.index(name) for name in kept]] = np.arange(len(kept))
        some = self.of_rows(np.flatnonzero(numbers[self.labels] >= 0))
        return replace(some, labels=numbers[some.labels], classes=kept)

    def of_rows(self, rows: np.ndarray) -> LabelledImages:
        """Returns the pictures of some rows, of the same classes.

        Args:
            rows: [n] int64.
        """
        files = tuple(self.files[row] for row in rows.tolist())
        return replace(self, images=self.images[rows], labels=self.labels[rows], files=files)


@dataclass(frozen=True)
class ClassSplit:
    """Whole classes, each in one part only.

    Attributes:
        train: classes that training sees.
        validation: classes that choices (when to stop, which weight) may look at.
        test: classes for the scores alone.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split_classes(classes: Sequence[str], *, validation: int, test: int) -> ClassSplit:
    """Splits classes in an order that depends on their names alone, so that every run holds out the same ones.

    Args:
        classes: names, no two equal.
        validation: how many go to validation.
        test: how many go to test.

    Raises:
        ValueError: nothing would be left to train on.
    """
    if validation + test >= len(classes):
        raise ValueError(
            f"`validation` (={validation}) and `test` (={test}) must leave a class of {len(classes)} to train on."
        )
    order = sorted(classes, key=lambda name: hashlib.sha256(name.encode()).digest())
    return ClassSplit(
        train=tuple(sorted(order[validation + test :])),
        validation=tuple(sorted(order[test : validation + test])),
        test=tuple(sorted(order[:test])),
    )


class PictureSource(Files):
    """The picture files of a folder or a zip, by their paths in it.

    Args:
        path: a folder or a zip.
        class_folders: whether pictures must lie in folders; those that lie in none are passed over then.

    Attributes:
        files: paths of the pictures, sorted; with those that `read` refuses for their names, and links that lead to
            nothing.
        loose: paths of pictures that are passed over, since they lie in no folder.

    Raises:
        TrainingError: it does not exist, there is no picture in a class folder (or none at all), or a class folder
            holds no picture of an accepted format, or a name is not UTF-8.
    """

    def __init__(self, path: Path, *, class_folders: bool = True) -> None:
        super().__init__(path)
        least = 2 if class_folders else 1
        names = [name for name in self.shown if len(PurePosixPath(name).parts) >= least]
        accepted = [name for name in names if _suffix(name) in PICTURE_SUFFIXES]
        self.loose = tuple(sorted(one for one in self.shown.difference(names) if _suffix(one) in PICTURE_SUFFIXES))
        if class_folders:
            _check_folders(path, [one for one in self.folders if is_shown(one)], accepted)
        if not accepted:
            where = " in a class folder" if class_folders else ""
            raise TrainingError(f"{path} holds no picture{where}.", reason="DATA_EMPTY")
        others = [name for name in names if _suffix(name) in OTHER_PICTURE_SUFFIXES]
        # A link at the top may have been a class.
        self.files = tuple(sorted([*accepted, *others, *(name for name in self.dangling if is_shown(name))]))
        check_names(path, self.files)

    def read(self, name: str, *, most_bytes: int = DEFAULT_LIMITS.max_bytes) -> bytes:
        """Returns a picture's content; as `Files.read`, and refuses what is of another format by its name."""
        if name in self.dangling:
            raise ValueError("It is a link that leads to nothing.")
        if _suffix(name) in OTHER_PICTURE_SUFFIXES:
            *most, last = sorted(PICTURE_SUFFIXES)
            raise ValueError(f"Its format is not accepted; names must end in {', '.join(most)} or {last}.")
        return super().read(name, most_bytes=most_bytes)


def tell_skipped(skipped: Iterable[str]) -> None:
    """Logs what was left out, a line each."""
    for file in skipped:
        _LOG.warning("skipped %s", file)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _check_folders(path: Path, folders: Sequence[str], pictures: Sequence[str]) -> None:
    """Refuses class folders without a picture: more likely a mistake than a wish.

    Args:
        path: the source, for the message.
        folders: paths of all folders in it.
        pictures: paths of the pictures of accepted formats.
    """
    filled = {str(parent) for name in pictures for parent in PurePosixPath(name).parents}
    parents = {str(PurePosixPath(folder).parent) for folder in folders}
    empty = sorted(set(folders) - filled - parents)
    if empty:
        raise TrainingError(f"{path}: these folders hold no picture: {', '.join(empty)}.", reason="CLASS_EMPTY")


def decode_files(
    source: PictureSource,
    files: Sequence[str],
    *,
    preprocessing: Preprocessing,
    edit: Callable[[bytes, str], bytes] | None = None,
) -> np.ndarray:
    """Returns the pixels of pictures, decoded on all cores.

    Args:
        source: where the pictures are.
        files: some of `source.files`.
        preprocessing: how pictures become pixels.
        edit: makes an edited copy of a file's bytes before they are decoded; gets the bytes and the file's path.

    Returns:
        [count, height, width, 3] uint8, RGB, 0..255.

    Raises:
        TrainingError: pictures can't be read; names them.
    """
    pixels, flaws = decode_readable(source, files, preprocessing, edit)
    if flaws:
        raise unreadable_pictures(source.path, flaws)
    return pixels


def decode_readable(
    source: PictureSource,
    files: Sequence[str],
    preprocessing: Preprocessing,
    edit: Callable[[bytes, str], bytes] | None = None,
) -> tuple[np.ndarray, dict[str, str]]:
    """Returns the pixels of the files that can be read, in their order, and what is wrong with the others by path.

    Arguments and pixels as in `decode_files`.
    """
    pixels = np.empty(_shape(files, preprocessing), np.uint8)
    flaws: dict[str, str] = {}
    for row, one in enumerate(_decoded(source, files, preprocessing, flaws, edit)):
        pixels[row] = one
    return pixels[: len(files) - len(flaws)], flaws


def _shape(files: Sequence[str], preprocessing: Preprocessing) -> tuple[int, int, int, int]:
    return (len(files), preprocessing.height_px, preprocessing.width_px, 3)


def _decoded(
    source: PictureSource,
    files: Sequence[str],
    preprocessing: Preprocessing,
    flaws: dict[str, str],
    edit: Callable[[bytes, str], bytes] | None = None,
) -> Iterator[np.ndarray]:
    """Yields the pixels of each file that can be read, [height, width, 3]; `flaws` gets what is wrong with others."""

    def one(file: str, encoded: bytes | str) -> np.ndarray | str:
        if isinstance(encoded, str):
            return encoded
        try:
            return decode(encoded if edit is None else edit(encoded, file), preprocessing)
        except InvalidImage as error:
            return error.message

    done = 0
    with ThreadPoolExecutor(core_count()) as pool:
        for chunk in in_chunks(source, files):
            part = files[done : done + len(chunk)]
            done += len(chunk)
            for file, result in zip(part, pool.map(one, part, chunk), strict=True):
                if isinstance(result, str):
                    flaws[file] = result
                else:
                    yield result


def unreadable_pictures(path: Path, flaws: dict[str, str]) -> TrainingError:
    """Returns the error that names all pictures that can't be read, with what is wrong with each, a line each."""
    return TrainingError(
        f"{path}: {len(flaws)} pictures can't be read, which --skip-bad leaves out:",
        reason="PICTURES_UNREADABLE",
        listed=told_flaws(flaws),
    )


def told_flaws(flaws: dict[str, str]) -> tuple[str, ...]:
    """Returns the path of each picture that can't be read, and what is wrong with it."""
    return tuple(f"{file}: {flaw}" for file, flaw in flaws.items())


def read_class_folders(
    path: Path,
    *,
    preprocessing: Preprocessing,
    cache_dir: Path | None = None,
    skip_bad: bool = False,
    one_part: bool = False,
) -> LabelledImages:
    """Reads every picture below a folder or in a zip.

    Args:
        path: a folder or a zip with one folder a class.
        preprocessing: how pictures become pixels.
        cache_dir: keeps the decoded pixels there and maps them on the next call; made for its owner alone where absent.
        skip_bad: leave out pictures that can't be read, unless a class would be left without any.
        one_part: refuse data that come with parts of their own; see `check_one_part`.

    Raises:
        TrainingError: there is no picture, a class holds none or none that can be read, or pictures can't be read and
            are not to be left out; all of them are named.
    """
    source = PictureSource(path)
    if one_part:
        check_one_part(path, source.files)
    if source.loose:
        count, first = len(source.loose), source.loose[0]
        _LOG.warning("%s: %d pictures beside the class folders are passed over, such as %s", path, count, first)
    if cache_dir is None:
        images, flaws = decode_readable(source, source.files, preprocessing)
    else:
        images, flaws = _kept_pixels(source, preprocessing, cache_dir)
    files = tuple(file for file in source.files if file not in flaws)
    if flaws and not (skip_bad and files):
        raise unreadable_pictures(path, flaws)
    # A link that leads to nothing may have been a folder: it says nothing of classes.
    there = [file for file in source.files if file not in source.dangling]
    named = dict(zip(there, classes_of(there), strict=True))
    classes = tuple(sorted({named[file] for file in files}))
    if unread := sorted(set(named.values()) - set(classes)):
        of_them = {file: flaw for file, flaw in flaws.items() if named.get(file) in unread}
        raise TrainingError(
            f"{path}: no picture can be read of these classes, which would be lost: {', '.join(unread)}:",
            reason="CLASS_EMPTY",
            listed=told_flaws(of_them),
        )
    places = {name: number for number, name in enumerate(classes)}
    labels = np.array([places[named[file]] for file in files], np.int32)
    return LabelledImages(images=images, labels=labels, classes=classes, files=files, skipped=told_flaws(flaws))


def _kept_pixels(
    source: PictureSource, preprocessing: Preprocessing, cache_dir: Path
) -> tuple[np.ndarray, dict[str, str]]:
    """Does as `decode_readable` of all files, by way of a file that is mapped: they need not fit into memory.

    Of a source only the pixels of its present files are kept, at each size that was asked for.
    """
    files = _fingerprint(source, source.files)
    cached = cache_dir / f"{source.path.stem}-{_pixels_key(files, preprocessing)}.npy"
    beside = cached.with_suffix(".json")
    if not (cached.exists() and beside.exists()):
        flaws: dict[str, str] = {}
        partial = cached.with_suffix(".partial.npy")
        shape = _shape(source.files, preprocessing)
        kept = _Kept(source=str(source.path.resolve()), files=files, flaws=flaws)
        try:
            cache_dir.mkdir(0o700, parents=True, exist_ok=True)
            # First, so that the disk needs no room for both.
            _delete_stale(cache_dir, kept)
            # Written and not mapped: a full disk is an error then, and no signal that ends the process.
            with partial.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                start = file.tell()
                for one in _decoded(source, source.files, preprocessing, flaws):
                    file.write(one.tobytes())
                # Rows for what can't be read are at the end; they take no room.
                file.truncate(start + math.prod(shape))
            beside.write_text(json.dumps(kept))
            partial.replace(cached)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise TrainingError(
                f"{cache_dir}: the decoded pictures can't be kept there ({error.strerror}).", reason="CACHE_UNWRITABLE"
            ) from error
    flaws = json.loads(beside.read_text())["flaws"]
    images: np.ndarray = np.load(cached, mmap_mode="r")
    return images[: len(source.files) - len(flaws)], flaws


class _Kept(TypedDict):
    """What lies beside kept pixels.

    Attributes:
        source: path of the folder or zip.
        files: `_fingerprint` of its pictures.
        flaws: what is wrong with those that can't be read, by path.
    """

    source: str
    files: str
    flaws: dict[str, str]


def _delete_stale(cache_dir: Path, now: _Kept) -> None:
    """Deletes the pixels of other states of a source; those of another folder or zip stay, and what else lies there."""
    for beside in cache_dir.glob("*.json"):
        try:
            kept = json.loads(beside.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(kept, dict) and kept.get("source") == now["source"] and kept.get("files") != now["files"]:
            # A run that has them mapped goes on with them.
            beside.with_suffix(".npy").unlink(missing_ok=True)
            beside.unlink(missing_ok=True)


def pixels_key(source: PictureSource, files: Sequence[str], preprocessing: Preprocessing) -> str:
    """Returns what tells one set of decoded pixels from another, 16 hexadecimal digits.

    Raises:
        TrainingError: a file is gone.
    """
    return _pixels_key(_fingerprint(source, files), preprocessing)


def _fingerprint(source: PictureSource, files: Sequence[str]) -> str:
    """Returns what `Files.fingerprint` says of some pictures.

    Raises:
        TrainingError: a file is gone.
    """
    try:
        return source.fingerprint(files)
    except OSError as error:
        raise TrainingError(f"{source.path}: can't be read ({error.strerror}).", reason="DATA_UNREADABLE") from error


def _pixels_key(files: str, preprocessing: Preprocessing) -> str:
    content = {"version": CACHE_VERSION, "preprocessing": asdict(preprocessing), "files": files}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
