"""Labelled pictures from class folders, split by whole classes.

A source is a folder or a zip (stored or compressed) whose pictures lie in one folder a class; folders above it are
ignored, so `train/cat/1.jpg` and `val/cat/2.jpg` are of one class. Pictures go through `twinsight_core.images.decode`:
training sees exactly the pixels that serving sees.
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

from twinsight_core.images import Preprocessing, decode

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
# Raised when the cache's layout changes, so that an old cache is not read.
CACHE_VERSION = 1


@dataclass(frozen=True)
class LabelledImages:
    """Pictures with their classes.

    Attributes:
        images: [count, height, width, 3] uint8, RGB, 0..255; may be mapped from a file, read-only.
        labels: [count] int32, index into `classes`.
        classes: names of the classes, sorted.
        files: [count] path of each picture inside its source.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


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
        ValueError: there is no picture in a class folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = zipfile.ZipFile(path) if path.is_file() else None
        if self._archive is not None:
            names = self._archive.namelist()
        else:
            names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        self.files = tuple(
            sorted(
                name
                for name in names
                if PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES and len(PurePosixPath(name).parts) > 1
            )
        )
        if not self.files:
            raise ValueError(f"{path} holds no picture in a class folder.")

    def read(self, file: str) -> bytes:
        """Returns the bytes of one of `files`."""
        if self._archive is not None:
            return self._archive.read(file)
        return (self.path / file).read_bytes()


def class_of(file: str) -> str:
    """Returns the class of a picture: the name of the folder it lies in."""
    return PurePosixPath(file).parent.name


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
    """
    # A zip's file handle is shared, so bytes are read here and only the decoding is spread.
    pixels = np.empty((len(files), preprocessing.height_px, preprocessing.width_px, 3), np.uint8)

    def fill(row: int, encoded: bytes) -> None:
        pixels[row] = decode(encoded if edit is None else edit(encoded, files[row]), preprocessing)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), 512):
            chunk = [(row, source.read(files[row])) for row in range(start, min(start + 512, len(files)))]
            list(pool.map(lambda one: fill(*one), chunk))
    return pixels


def read_class_folders(path: Path, *, preprocessing: Preprocessing, cache_dir: Path | None = None) -> LabelledImages:
    """Reads every picture below a folder or in a zip.

    Args:
        path: a folder or a zip with one folder a class.
        preprocessing: how pictures become pixels.
        cache_dir: keeps the decoded pixels there and maps them on the next call; made where absent.

    Raises:
        ValueError: there is no picture in a class folder.
        InvalidImage: a picture can't be read.
    """
    source = PictureSource(path)
    classes = tuple(sorted({class_of(file) for file in source.files}))
    labels = np.array([classes.index(class_of(file)) for file in source.files], np.int32)
    if cache_dir is None:
        images = decode_files(source, source.files, preprocessing=preprocessing)
    else:
        cached = cache_dir / f"{path.stem}-{_cache_key(source, preprocessing)}.npy"
        if not cached.exists():
            cache_dir.mkdir(parents=True, exist_ok=True)
            partial = cached.with_suffix(".partial.npy")
            np.save(partial, decode_files(source, source.files, preprocessing=preprocessing))
            partial.replace(cached)
        images = np.load(cached, mmap_mode="r")
    return LabelledImages(images=images, labels=labels, classes=classes, files=source.files)


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
