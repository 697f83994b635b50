"""Picture files on disk: finds them, and locates the file of a stored item."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from twinsight_client.images import UNREADABLE
from twinsight_client.results import MetadataValue

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
OTHER_SUFFIXES = frozenset(
    f".{one}"
    for one in (
        *("heic", "heif", "hif", "avif", "jxl", "jp2", "j2k", "jpf", "jpx", "pjpeg", "pjp", "mpo", "apng"),
        *("gif", "tif", "tiff", "bmp", "dib", "ico", "svg", "psd", "tga", "pbm", "pgm", "ppm", "pnm"),
        *("dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "sr2", "orf", "rw2", "raf", "pef", "srw", "x3f"),
    )
)
"""Suffixes of unsupported image formats, which are reported."""


@dataclass(frozen=True)
class Picture:
    """A picture file under a folder.

    Attributes:
        root: the folder, absolute.
        file: path relative to it, with forward slashes.
        size: bytes.
        mtime_ns: modification time, in nanoseconds since 1970.
        others: fields of its stored item, including those that others wrote.
    """

    root: Path
    file: str
    size: int
    mtime_ns: int
    others: Mapping[str, MetadataValue] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.root / self.file

    def metadata(self) -> dict[str, MetadataValue]:
        """Returns the fields of its item; `same_file` and `stored_file` read those that describe the file."""
        return {
            **self.others,
            "root": str(self.root),
            "file": self.file,
            "folder": list(Path(self.file).parts[:-1]),
            "size": self.size,
            "mtime_ns": self.mtime_ns,
        }

    def same_file(self, metadata: Mapping[str, MetadataValue]) -> bool:
        """Whether a stored item was made from this file in its current state."""
        return (metadata.get("root"), metadata.get("file"), metadata.get("size"), metadata.get("mtime_ns")) == (
            str(self.root),
            self.file,
            self.size,
            self.mtime_ns,
        )

    def is_another(self, metadata: Mapping[str, MetadataValue], *, moved_from: Collection[str] = ()) -> bool:
        """Whether a stored item was made from another picture, which only has the same path in another folder.

        A file at the same place is the same picture, changed or not. So is one elsewhere with the same size and
        modification time: its folder was moved. An item that names no folder counts as this picture's: somebody who
        changed its fields may have left them out. In folders listed in `moved_from`, the same path is the same picture.
        """
        root, file = metadata.get("root"), metadata.get("file")
        if not isinstance(root, str) or not isinstance(file, str) or Path(root, file) == self.path:
            return False
        if root in moved_from and file == self.file:
            return False
        return (metadata.get("size"), metadata.get("mtime_ns")) != (self.size, self.mtime_ns)


@dataclass(frozen=True)
class Unreadable:
    """A file or folder that could not be accessed, so it is not known whether it has pictures.

    Attributes:
        file: path relative to the searched folder, with forward slashes.
        reason: FILE_UNREADABLE or FOLDER_UNREADABLE.
        message: the system's message.
    """

    file: str
    reason: str
    message: str


@dataclass(frozen=True)
class Listing:
    """The picture files under a folder.

    Attributes:
        root: the folder, absolute.
        pictures: its picture files, folder by folder, ordered by name.
        unreadable: files and folders that could not be accessed.
        passed_over: number of files in unsupported image formats, by suffix.
        linked_folders: links to folders, which are not followed; paths relative to `root`, with forward slashes.
    """

    root: Path
    pictures: tuple[Picture, ...]
    unreadable: tuple[Unreadable, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)
    linked_folders: tuple[str, ...] = ()


def find_pictures(root: Path) -> Listing:
    """Returns the picture files under `root`; hidden files and folders are left out.

    Pictures are recognised by suffix. Links to files are followed, links to folders are not: they may form cycles.
    Anything but a regular file, such as a pipe, is ignored: reading it could block for ever.
    """
    root = root.resolve()
    pictures: list[Picture] = []
    unreadable: list[Unreadable] = []
    passed_over: Counter[str] = Counter()
    linked_folders: list[str] = []

    def record(error: OSError, path: Path, reason: str) -> None:
        if not isinstance(error, FileNotFoundError):  # a dangling link, or deleted since it was listed
            unreadable.append(Unreadable(path.relative_to(root).as_posix(), reason, error.strerror or str(error)))

    def record_folder(error: OSError) -> None:
        record(error, Path(error.filename), "FOLDER_UNREADABLE")

    for folder, folders, files in os.walk(root, onerror=record_folder):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        linked_folders.extend(
            path.relative_to(root).as_posix()
            for path in (Path(folder, one) for one in folders)
            if os.path.islink(path)  # noqa: PTH114  # Path.is_symlink raises without permission
        )
        for name in sorted(files):
            path = Path(folder, name)
            suffix = path.suffix.lower()
            if name.startswith("."):
                continue
            if suffix in OTHER_SUFFIXES:
                passed_over[suffix] += 1
            if suffix not in SUFFIXES:
                continue
            try:
                state = path.stat()
            except OSError as error:
                record(error, path, UNREADABLE)
                continue
            if stat.S_ISREG(state.st_mode):
                pictures.append(Picture(root, path.relative_to(root).as_posix(), state.st_size, state.st_mtime_ns))
    return Listing(root, tuple(pictures), tuple(unreadable), dict(passed_over), tuple(linked_folders))


def passed_over_said(passed_over: Mapping[str, int], linked_folders: Collection[str]) -> str:
    """Returns what a `Listing` ignored, as text, most frequent first; empty if nothing."""
    said = [f"{count} {suffix}" for suffix, count in sorted(passed_over.items(), key=lambda one: (-one[1], one[0]))]
    if links := len(linked_folders):
        said.append(f"{links} linked folder{'s' if links > 1 else ''}")
    return ", ".join(said)


def is_gone(path: Path) -> bool:
    """Whether there is certainly no file at `path`, not even a dangling link.

    A file that is hidden by a failing disk, a stale mount or missing permissions is not gone.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # ValueError: not a path, it has a NUL
        return False
    return False


def stored_file(item_id: str, metadata: Mapping[str, MetadataValue], *, root: Path | None) -> Path | None:
    """Returns the path of a stored item's file; None if it is unknown, or no file can be seen there.

    Args:
        item_id: the item's id.
        metadata: its fields, from `Picture.metadata` or elsewhere.
        root: folder to look in instead of the indexed one, if the pictures are elsewhere now or on this machine.
    """
    file = metadata.get("file", item_id)
    base = root or metadata.get("root")
    if not isinstance(file, str) or not isinstance(base, str | Path):
        return None
    path = Path(base, file)
    try:
        return path if path.is_file() else None
    except OSError:  # it may exist, but can't be accessed
        return None
