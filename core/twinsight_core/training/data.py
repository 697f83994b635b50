"""Labelled pictures from class folders, split by whole classes or within them.

A source is a folder or a zip (stored or compressed) whose pictures lie in one folder a class. A class is named by the
path of its folder, without what all paths share and without the names of splits: `train/cat/1.jpg` and `val/cat/2.jpg`
are of the class `cat`, and `Greek/alpha/1.png` is of `Greek/alpha`, in the group `Greek`. Pictures go through
`twinsight_core.images.decode`: training sees exactly the pixels that serving sees, and every file that can't be read is
told of before training begins.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from twinsight_core.errors import InvalidImage, TrainingError
from twinsight_core.images import Preprocessing, decode

SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
# Raised when the cache's layout changes, so that an old cache is not read.
CACHE_VERSION = 2
# More are counted and not named.
_NAMED_FILES = 50


@dataclass(frozen=True)
class LabelledImages:
    """Pictures with their classes.

    Attributes:
        images: [count, height, width, 3] uint8, RGB, 0..255; may be mapped from a file, read-only.
        labels: [count] int32, index into `classes`.
        classes: names of the classes, sorted.
        files: [count] path of each picture inside its source.
        skipped: paths of pictures that can't be read and were left out.
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


class PictureSource:
    """The picture files of a folder or a zip, by their paths in it.

    Args:
        path: a folder or a zip.

    Attributes:
        files: paths of the pictures, sorted, with `/` between their parts.

    Raises:
        TrainingError: it does not exist, there is no picture in a class folder, or a class folder is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = zipfile.ZipFile(path) if path.is_file() else None
        except zipfile.BadZipFile as error:
            raise TrainingError(f"{path}: neither a folder nor a zip.", reason="DATA_UNREADABLE") from error
        if self._archive is not None:
            names = self._archive.namelist()
        elif path.is_dir():
            names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
            _check_folders(path)
        else:
            raise TrainingError(f"{path}: there is no such folder or zip.", reason="DATA_MISSING")
        self.files = tuple(
            sorted(
                name
                for name in names
                if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES and len(PurePosixPath(name).parts) > 1
            )
        )
        if not self.files:
            raise TrainingError(f"{path} holds no picture in a class folder.", reason="DATA_EMPTY")

    def read(self, file: str) -> bytes:
        """Returns the bytes of one of `files`."""
        if self._archive is not None:
            return self._archive.read(file)
        return (self.path / file).read_bytes()


def classes_of(files: Sequence[str]) -> list[str]:
    """Returns the class of each picture; see the module."""
    folders = [PurePosixPath(file).parent.parts for file in files]
    depth = min(len(parts) for parts in folders) - 1
    shared = next((n for n in range(depth) if len({parts[n] for parts in folders}) > 1), depth)
    kept = [[part for part in parts[shared:] if part.lower() not in SPLIT_NAMES] for parts in folders]
    return ["/".join(parts) or whole[-1] for parts, whole in zip(kept, folders, strict=True)]


def _check_folders(path: Path) -> None:
    """Refuses class folders without a picture: more likely a mistake than a wish."""
    empty = sorted(
        folder.relative_to(path).as_posix()
        for folder in path.rglob("*")
        if folder.is_dir() and not any(folder.iterdir())
    )
    if empty:
        raise TrainingError(f"{path}: these folders hold no picture: {_listed(empty)}.", reason="CLASS_EMPTY")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED_FILES} more" if len(names) > _NAMED_FILES else ""
    return ", ".join(names[:_NAMED_FILES]) + more


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
    pixels, flaws = _decoded(source, files, preprocessing, edit)
    if flaws:
        raise _unreadable(source.path, flaws)
    return pixels


def _decoded(
    source: PictureSource,
    files: Sequence[str],
    preprocessing: Preprocessing,
    edit: Callable[[bytes, str], bytes] | None = None,
) -> tuple[np.ndarray, dict[str, str]]:
    """Returns the pixels of all files, black where one can't be read, and what is wrong with those."""
    # A zip's file handle is shared, so bytes are read here and only the decoding is spread.
    pixels = np.zeros((len(files), preprocessing.height_px, preprocessing.width_px, 3), np.uint8)
    flaws: dict[str, str] = {}

    def fill(row: int, encoded: bytes) -> None:
        try:
            pixels[row] = decode(encoded if edit is None else edit(encoded, files[row]), preprocessing)
        except InvalidImage as error:
            flaws[files[row]] = error.message

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), 512):
            chunk = [(row, source.read(files[row])) for row in range(start, min(start + 512, len(files)))]
            list(pool.map(lambda one: fill(*one), chunk))
    return pixels, dict(sorted(flaws.items()))


def _unreadable(path: Path, flaws: dict[str, str]) -> TrainingError:
    listed = _listed([f"{file} ({flaw})" for file, flaw in flaws.items()])
    return TrainingError(
        f"{path}: {len(flaws)} pictures can't be read, which --skip-bad leaves out: {listed}",
        reason="PICTURES_UNREADABLE",
    )


def read_class_folders(
    path: Path, *, preprocessing: Preprocessing, cache_dir: Path | None = None, skip_bad: bool = False
) -> LabelledImages:
    """Reads every picture below a folder or in a zip.

    Args:
        path: a folder or a zip with one folder a class.
        preprocessing: how pictures become pixels.
        cache_dir: keeps the decoded pixels there and maps them on the next call; made where absent.
        skip_bad: leave out pictures that can't be read.

    Raises:
        TrainingError: there is no picture, a class folder is empty, or pictures can't be read and are not to be left
            out; all of them are named.
    """
    source = PictureSource(path)
    files, flaws = source.files, dict[str, str]()
    if cache_dir is None:
        images, flaws = _decoded(source, files, preprocessing)
    else:
        cached = cache_dir / f"{path.stem}-{_cache_key(source, preprocessing)}.npy"
        beside = cached.with_suffix(".json")
        if not (cached.exists() and beside.exists()):
            cache_dir.mkdir(parents=True, exist_ok=True)
            partial = cached.with_suffix(".partial.npy")
            pixels, flaws = _decoded(source, files, preprocessing)
            np.save(partial, pixels)
            beside.write_text(json.dumps(flaws))
            partial.replace(cached)
        images, flaws = np.load(cached, mmap_mode="r"), json.loads(beside.read_text())
    if flaws and not skip_bad:
        raise _unreadable(path, flaws)
    if flaws:
        good = [row for row, file in enumerate(files) if file not in flaws]
        files, images = tuple(files[row] for row in good), images[good]
        if not files:
            raise _unreadable(path, flaws)
    named = classes_of(files)
    classes = tuple(sorted(set(named)))
    places = {name: number for number, name in enumerate(classes)}
    labels = np.array([places[name] for name in named], np.int32)
    return LabelledImages(images=images, labels=labels, classes=classes, files=files, skipped=tuple(flaws))


def _cache_key(source: PictureSource, preprocessing: Preprocessing) -> str:
    """Returns what tells one set of decoded pixels from another: paths, sizes or archive, preprocessing."""
    state = source.path.stat()
    content = {
        "version": CACHE_VERSION,
        "preprocessing": asdict(preprocessing),
        "size": state.st_size,
        "modified_ns": state.st_mtime_ns,
        "files": list(source.files),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
