"""Labelled pictures from class folders, split by whole classes or within them.

A source is a folder or a zip (stored or compressed) with one folder of pictures per class. A class is named after the
path of its folder, without the prefix that all paths share and without the name of a leading part (`class_folders`):
`train/cat/1.jpg` and `val/cat/2.jpg` are of the class `cat`, and `Greek/alpha/1.png` is of `Greek/alpha`, in the group
`Greek`. Pictures go through `twinsight_core.images.decode`: training sees exactly the pixels that serving sees, and
every file that can't be read is reported before training begins. No more of a file is read than serving would accept,
whatever a zip unpacks to. Pictures of other formats and dangling links count as unreadable files; hidden files and
those whose names are not a picture's (README, .txt, .json) are ignored.
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
from twinsight_core.training.pixels import empty_pixels, pixels_of

_LOG = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
OTHER_PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".pgm", ".ppm", ".tif", ".tiff"}
)
"""Suffixes of pictures that are not accepted: more likely an oversight than meant to be skipped."""
# Incremented when the cache's layout or the decoded pixels change, so that an old cache is not read.
CACHE_VERSION = 5


@dataclass(frozen=True)
class LabelledImages:
    """Pictures with their classes.

    Attributes:
        images: [count, height, width, 3] uint8, RGB, 0..255; may be mapped from a file, read-only.
        labels: [count] int32, index into `classes`.
        classes: names of the classes, sorted.
        files: [count] path of each picture inside its source.
        skipped: unreadable files that were left out: the path of each and what is wrong with it.
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
        """Returns the pictures of some of the classes, in their order; labels number these classes only.

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
        return replace(self, images=pixels_of(self.images, rows), labels=self.labels[rows], files=files)


@dataclass(frozen=True)
class ClassSplit:
    """Whole classes, each in one part only.

    Attributes:
        train: classes that training sees.
        validation: classes that decisions (when to stop, which weights) may look at.
        test: classes for the scores only.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split_classes(classes: Sequence[str], *, validation: int, test: int) -> ClassSplit:
    """Splits classes in an order that depends only on their names, so that every run holds out the same ones.

    Args:
        classes: names, no two equal.
        validation: how many go to validation.
        test: how many go to test.

    Raises:
        ValueError: nothing would be left to train on.
    """
    if validation + test >= len(classes):
        raise ValueError(
            f"`validation` (={validation}) and `test` (={test}) must leave at least 1 of {len(classes)} classes to "
            "train on."
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
        class_folders: whether pictures must lie in folders; those outside are ignored then.

    Attributes:
        files: paths of the pictures, sorted; including those whose names `read` rejects, and dangling links.
        loose: paths of pictures that are ignored because they are in no folder.

    Raises:
        TrainingError: it does not exist, no class folder (or nothing at all) holds a picture, a class folder holds no
            picture of an accepted format, or a name is not UTF-8.
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
            raise TrainingError(f"{path}: there are no pictures{where}.", reason="DATA_EMPTY")
        others = [name for name in names if _suffix(name) in OTHER_PICTURE_SUFFIXES]
        # A link at the top may have been a class.
        self.files = tuple(sorted([*accepted, *others, *(name for name in self.dangling if is_shown(name))]))
        check_names(path, self.files)

    def read(self, name: str, *, most_bytes: int = DEFAULT_LIMITS.max_bytes) -> bytes:
        """Returns a picture's content; as `Files.read`, and rejects names of other formats."""
        if name in self.dangling:
            raise ValueError("It is a link to a file that does not exist.")
        if _suffix(name) in OTHER_PICTURE_SUFFIXES:
            *most, last = sorted(PICTURE_SUFFIXES)
            raise ValueError(f"Its format is not supported; names must end in {', '.join(most)} or {last}.")
        return super().read(name, most_bytes=most_bytes)


def tell_skipped(skipped: Iterable[str]) -> None:
    """Logs what was left out, one line each."""
    for file in skipped:
        _LOG.warning("skipped %s", file)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _check_folders(path: Path, folders: Sequence[str], pictures: Sequence[str]) -> None:
    """Rejects class folders without pictures, which are more likely a mistake than intended.

    Args:
        path: the source, for the message.
        folders: paths of all folders in it.
        pictures: paths of the pictures of accepted formats.
    """
    filled = {str(parent) for name in pictures for parent in PurePosixPath(name).parents}
    parents = {str(PurePosixPath(folder).parent) for folder in folders}
    empty = sorted(set(folders) - filled - parents)
    if empty:
        raise TrainingError(f"{path}: these folders hold no pictures: {', '.join(empty)}.", reason="CLASS_EMPTY")


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
    pixels = empty_pixels(_shape(files, preprocessing))
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
    """Yields the pixels of each readable file, [height, width, 3]; adds what is wrong with the others to `flaws`."""

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
    """Returns the error that lists all unreadable pictures and what is wrong with each, one line each."""
    return TrainingError(
        f"{path}: {len(flaws)} pictures can't be read; --skip-bad leaves them out:",
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
        path: a folder or a zip with one folder per class.
        preprocessing: how pictures become pixels.
        cache_dir: keeps the decoded pixels, which the next call maps; created for its owner only if absent.
        skip_bad: leave out pictures that can't be read, unless a class would be left without any.
        one_part: reject data that comes in parts of its own; see `check_one_part`.

    Raises:
        TrainingError: there is no picture, a class has none or none that can be read, or pictures can't be read and
            must not be left out; all of them are named.
    """
    source = PictureSource(path)
    if one_part:
        check_one_part(path, source.files)
    if source.loose:
        count, first = len(source.loose), source.loose[0]
        _LOG.warning("%s: ignoring %d pictures outside the class folders, such as %s", path, count, first)
    if cache_dir is None:
        images, flaws = decode_readable(source, source.files, preprocessing)
    else:
        images, flaws = _kept_pixels(source, preprocessing, cache_dir)
    files = tuple(file for file in source.files if file not in flaws)
    if flaws and not (skip_bad and files):
        raise unreadable_pictures(path, flaws)
    # A dangling link may have been a folder, so it names no class.
    there = [file for file in source.files if file not in source.dangling]
    named = dict(zip(there, classes_of(there), strict=True))
    classes = tuple(sorted({named[file] for file in files}))
    if unread := sorted(set(named.values()) - set(classes)):
        of_them = {file: flaw for file, flaw in flaws.items() if named.get(file) in unread}
        raise TrainingError(
            f"{path}: these classes have no readable picture and would be lost: {', '.join(unread)}:",
            reason="CLASS_EMPTY",
            listed=told_flaws(of_them),
        )
    places = {name: number for number, name in enumerate(classes)}
    labels = np.array([places[named[file]] for file in files], np.int32)
    return LabelledImages(images=images, labels=labels, classes=classes, files=files, skipped=told_flaws(flaws))


def _kept_pixels(
    source: PictureSource, preprocessing: Preprocessing, cache_dir: Path
) -> tuple[np.ndarray, dict[str, str]]:
    """Does what `decode_readable` does for all files, through a mapped file: the pixels need not fit in memory.

    Only the pixels of a source's current files are kept, for each size that was asked for.
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
            # Written rather than mapped: a full disk then raises an error instead of killing the process by a signal.
            with partial.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                start = file.tell()
                for one in _decoded(source, source.files, preprocessing, flaws):
                    file.write(one.tobytes())
                # The rows of unreadable files are at the end and take no space.
                file.truncate(start + math.prod(shape))
            beside.write_text(json.dumps(kept))
            partial.replace(cached)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise TrainingError(
                f"{cache_dir}: can't write the decoded pictures ({error.strerror}).", reason="CACHE_UNWRITABLE"
            ) from error
    flaws = json.loads(beside.read_text())["flaws"]
    images: np.ndarray = np.load(cached, mmap_mode="r")
    return images[: len(source.files) - len(flaws)], flaws


class _Kept(TypedDict):
    """The JSON file beside kept pixels.

    Attributes:
        source: path of the folder or zip.
        files: `_fingerprint` of its pictures.
        flaws: what is wrong with those that can't be read, by path.
    """

    source: str
    files: str
    flaws: dict[str, str]


def _delete_stale(cache_dir: Path, now: _Kept) -> None:
    """Deletes the pixels of other states of a source; keeps those of other folders or zips, and all other files."""
    for beside in cache_dir.glob("*.json"):
        try:
            kept = json.loads(beside.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(kept, dict) and kept.get("source") == now["source"] and kept.get("files") != now["files"]:
            # A run that has them mapped can keep using them.
            beside.with_suffix(".npy").unlink(missing_ok=True)
            beside.unlink(missing_ok=True)


def pixels_key(source: PictureSource, files: Sequence[str], preprocessing: Preprocessing) -> str:
    """Returns a key that identifies a set of decoded pixels, 16 hexadecimal digits.

    Raises:
        TrainingError: a file no longer exists.
    """
    return _pixels_key(_fingerprint(source, files), preprocessing)


def _fingerprint(source: PictureSource, files: Sequence[str]) -> str:
    """Returns `Files.fingerprint` of some pictures.

    Raises:
        TrainingError: a file no longer exists.
    """
    try:
        return source.fingerprint(files)
    except OSError as error:
        raise TrainingError(f"{source.path}: can't be read ({error.strerror}).", reason="DATA_UNREADABLE") from error


def _pixels_key(files: str, preprocessing: Preprocessing) -> str:
    content = {"version": CACHE_VERSION, "preprocessing": asdict(preprocessing), "files": files}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
