"""Picture files on disk: which there are, and where a stored item's file is."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from twinsight_client.results import MetadataValue

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})


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
    """

    root: Path
    pictures: tuple[Picture, ...]
    unreadable: tuple[Unreadable, ...] = ()


def find_pictures(root: Path) -> Listing:
    """Returns the picture files under `root`; hidden files and folders are left out.

    Links to files are followed, links to folders are not: they may lead in circles. What is no regular file, a pipe
    say, is no picture: reading it could wait for ever.
    """
    root = root.resolve()
    pictures: list[Picture] = []
    unreadable: list[Unreadable] = []

    def put_down(error: OSError, path: Path, reason: str) -> None:
        if not isinstance(error, FileNotFoundError):  # a link to nothing, or deleted since it was listed
            unreadable.append(Unreadable(path.relative_to(root).as_posix(), reason, error.strerror or str(error)))

    def put_folder_down(error: OSError) -> None:
        put_down(error, Path(error.filename), "FOLDER_UNREADABLE")

    for folder, folders, files in os.walk(root, onerror=put_folder_down):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            try:
                state = path.stat()
            except OSError as error:
                put_down(error, path, "FILE_UNREADABLE")
                continue
            if stat.S_ISREG(state.st_mode):
                pictures.append(Picture(root, path.relative_to(root).as_posix(), state.st_size, state.st_mtime_ns))
    return Listing(root, tuple(pictures), tuple(unreadable))


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
