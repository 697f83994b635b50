"""Picture files on disk: which there are, and where a stored item's file is."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
"""Of pictures that are not taken: who has them should hear of it."""


@dataclass(frozen=True)
class Picture:
    """A picture file under a folder.

    Attributes:
        root: the folder, absolute.
        file: path relative to it, with forward slashes.
        size: bytes.
        mtime_ns: time of the last change, in nanoseconds since 1970.
        others: fields of its stored item, those that others wrote among them.
    """

    root: Path
    file: str
    size: int
    mtime_ns: int
    others: Mapping[str, MetadataValue] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.root / self.file

    def metadata(self) -> dict[str, MetadataValue]:
        """Returns the fields of the item made of it; `same_file` and `stored_file` read those of the file."""
        return {
            **self.others,
            "root": str(self.root),
            "file": self.file,
            "folder": list(Path(self.file).parts[:-1]),
            "size": self.size,
            "mtime_ns": self.mtime_ns,
        }

    def same_file(self, metadata: Mapping[str, MetadataValue]) -> bool:
        """Whether a stored item was made of this file as it is now."""
        return (metadata.get("root"), metadata.get("file"), metadata.get("size"), metadata.get("mtime_ns")) == (
            str(self.root),
            self.file,
            self.size,
            self.mtime_ns,
        )

    def is_another(self, metadata: Mapping[str, MetadataValue], *, moved_from: Collection[str] = ()) -> bool:
        """Whether a stored item was made of another picture, which only has the same path in another folder.

        A file at the same place is the same picture, changed or not, and so is one of the same size and time of change
        elsewhere: its folder was moved. An item that names no folder is nobody else's: whoever changes an item's fields
        may have left them out. Of folders that are said to have been moved here, the same path is the same picture.
        """
        root, file = metadata.get("root"), metadata.get("file")
        if not isinstance(root, str) or not isinstance(file, str) or Path(root, file) == self.path:
            return False
        if root in moved_from and file == self.file:
            return False
        return (metadata.get("size"), metadata.get("mtime_ns")) != (self.size, self.mtime_ns)


@dataclass(frozen=True)
class Unreadable:
    """A file or folder that could not be looked at: whether there are pictures is not known.

    Attributes:
        file: path relative to the folder that was looked through, with forward slashes.
        reason: FILE_UNREADABLE or FOLDER_UNREADABLE.
        message: what the system says.
    """

    file: str
    reason: str
    message: str


@dataclass(frozen=True)
class Listing:
    """What was found under a folder.

    Attributes:
        root: the folder, absolute.
        pictures: its picture files, folder by folder, in the order of their names.
        unreadable: what could not be looked at.
        passed_over: how many files there are by each suffix of pictures that are not taken.
        linked_folders: links to folders, which are not followed; paths relative to `root`, with forward slashes.
    """

    root: Path
    pictures: tuple[Picture, ...]
    unreadable: tuple[Unreadable, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)
    linked_folders: tuple[str, ...] = ()


def find_pictures(root: Path) -> Listing:
    """Returns the picture files under `root`; hidden files and folders are left out.

    What a picture is goes by its suffix. Links to files are followed, links to folders are not: they may lead in
    circles. What is no regular file, a pipe say, is no picture: reading it could wait for ever.
    """
    root = root.resolve()
    pictures: list[Picture] = []
    unreadable: list[Unreadable] = []
    passed_over: Counter[str] = Counter()
    linked_folders: list[str] = []

    def put_down(error: OSError, path: Path, reason: str) -> None:
        if not isinstance(error, FileNotFoundError):  # a link to nothing, or deleted since it was listed
            unreadable.append(Unreadable(path.relative_to(root).as_posix(), reason, error.strerror or str(error)))

    def put_folder_down(error: OSError) -> None:
        put_down(error, Path(error.filename), "FOLDER_UNREADABLE")

    for folder, folders, files in os.walk(root, onerror=put_folder_down):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        linked_folders.extend(
            path.relative_to(root).as_posix()
            for path in (Path(folder, one) for one in folders)
            if os.path.islink(path)  # noqa: PTH114  # Path.is_symlink raises where it may not look
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
                put_down(error, path, "FILE_UNREADABLE")
                continue
            if stat.S_ISREG(state.st_mode):
                pictures.append(Picture(root, path.relative_to(root).as_posix(), state.st_size, state.st_mtime_ns))
    return Listing(root, tuple(pictures), tuple(unreadable), dict(passed_over), tuple(linked_folders))


def passed_over_said(passed_over: Mapping[str, int], linked_folders: Collection[str]) -> str:
    """Says what of a `Listing` was not looked into, the most frequent first; empty where there is nothing."""
    said = [f"{count} {suffix}" for suffix, count in sorted(passed_over.items(), key=lambda one: (-one[1], one[0]))]
    if links := len(linked_folders):
        said.append(f"{links} linked folder{'s' if links > 1 else ''}")
    return ", ".join(said)


def is_gone(path: Path) -> bool:
    """Whether there is certainly no file at `path`, not even a link to nothing.

    A file that a failing disk, a stale mount or a lack of rights hides is not gone.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):  # ValueError: no path at all, for it holds a NUL
        return False
    return False


def stored_file(item_id: str, metadata: Mapping[str, MetadataValue], *, root: Path | None) -> Path | None:
    """Returns where the file of a stored item is, or None where that is not known or no file can be seen there.

    Args:
        item_id: the item's id.
        metadata: its fields, as `Picture.metadata` made them or not.
        root: folder to look in instead of the one that was indexed: the pictures have moved, or lie elsewhere here.
    """
    file = metadata.get("file", item_id)
    base = root or metadata.get("root")
    if not isinstance(file, str) or not isinstance(base, str | Path):
        return None
    path = Path(base, file)
    try:
        return path if path.is_file() else None
    except OSError:  # it may be there, but nobody can look
        return None
