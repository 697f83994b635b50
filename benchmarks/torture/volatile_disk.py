"""A disk that keeps what was synced, and of the rest what chance will have.

Files that SQLite writes are watched through its file system; others (a graph's) are looked at when `os.fsync` is called
for them and when the power goes. From that moment every write and sync fails, and `image` is what a machine that starts
again would find:

- of a file, what was last synced, and any subset of the sectors written since, in order, the last one torn anywhere;
- of a folder, the names as of its last sync, or as they are, or a mixture; a renaming happens whole or not at all.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import apsw

from benchmarks.torture.interposed import Delete, Step, Sync, Truncate, Write, interposed, io_error

SECTOR = 512
_fsync = os.fsync


class PowerIsGone(OSError):
    """What a call of the system's meets after the cut."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "the power is gone")


@dataclass
class _Node:
    """A file or folder.

    Attributes:
        held: a descriptor that keeps the inode's number from being given to another file.
        durable: a file's bytes as last synced.
        pending: what was written to it since; None: it is not SQLite's, and only its content now is known.
        names: a folder's entries as last synced.
        fresh: its name becomes durable with its first sync, as SQLite does with journals.
    """

    held: int
    durable: bytes = b""
    pending: list[Write | Truncate] | None = None
    names: dict[str, _Node] = field(default_factory=dict)
    fresh: bool = False


class VolatileDisk:
    """Everything below a folder, from its making to the cut. Use as a context manager."""

    def __init__(self, root: Path, *, cut_at: int | None, seed: int) -> None:
        """Starts with an empty folder, whose own name is durable.

        Args:
            root: an empty folder.
            cut_at: the step before which the power goes; None: never.
            seed: with `cut_at` chooses what of the unsynced is kept.
        """
        self.root = root
        self.steps = 0
        self.last_step = ""
        self.image: dict[str, bytes | None] | None = None
        self._cut_at = cut_at
        self._rng = random.Random(f"{seed} {cut_at}")
        # Nothing, everything, or any part of what was not synced.
        self._kept = self._rng.choice((0.0, 0.0, 1.0, 0.5, 0.9))
        self._nodes: dict[int, _Node] = {}
        self._lock = threading.RLock()
        self._node(root)

    @contextmanager
    def mounted(self) -> Iterator[str]:
        """Watches SQLite's steps, by the file system whose name this yields, and `os.fsync`."""
        with mock.patch.object(os, "fsync", self._fsynced), interposed(self) as vfs:
            try:
                yield vfs
            finally:
                for node in self._nodes.values():
                    os.close(node.held)

    def opened(self, file: Path, *, journal: bool) -> None:
        """As `Watcher`."""
        with self._lock:
            node = self._node(file)
            if node.pending is None:
                node.pending = []
                node.fresh = journal

    def before(self, step: Step) -> None:
        """As `Watcher`."""
        with self._lock:
            if self._count(f"{type(step).__name__.lower()} {step.file.name}"):
                raise io_error(apsw.SQLITE_IOERR_FSYNC if isinstance(step, Sync) else apsw.SQLITE_IOERR_WRITE)
            if isinstance(step, Delete):
                if step.synced:
                    self._sync_names(step.file.parent, without=step.file.name)
                return
            node = self._node(step.file)
            if node.pending is None:
                raise RuntimeError(f"{step.file} was changed before it was opened.")
            if isinstance(step, Sync):
                self._flush(node)
                if node.fresh:
                    self._sync_names(step.file.parent)
                    node.fresh = False
            else:
                node.pending.append(step)

    def _fsynced(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not path.is_relative_to(self.root):
            _fsync(descriptor)
            return
        with self._lock:
            if self._count(f"fsync {path.name}"):
                raise PowerIsGone
            if path.is_dir():
                self._sync_names(path)
                return
            node = self._node(path)
            node.durable = path.read_bytes()

    def _count(self, step: str) -> bool:
        """Counts a step and returns whether the power is gone."""
        if self.image is not None:
            return True
        self.steps += 1
        if self.steps == self._cut_at:
            self.last_step = step
            self.image = {}
            self._take(self.image, self.root, self._node(self.root), "")
            return True
        return False

    def _node(self, path: Path) -> _Node:
        held = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        inode = os.fstat(held).st_ino
        known = self._nodes.get(inode)
        if known is not None:
            os.close(held)
            return known
        made = self._nodes[inode] = _Node(held)
        return made

    def _flush(self, node: _Node) -> None:
        node.durable = _written(node.durable, node.pending or [])
        node.pending = []

    def _names(self, folder: Path) -> dict[str, _Node]:
        names: dict[str, _Node] = {}
        for one in folder.iterdir():
            # The log's index is shared memory: it is made anew from the log.
            if not one.name.endswith("-shm"):
                with suppress(FileNotFoundError):  # another thread was quicker
                    names[one.name] = self._node(one)
        return names

    def _sync_names(self, folder: Path, *, without: str = "") -> None:
        names = self._names(folder)
        names.pop(without, None)
        self._node(folder).names = names

    def _take(self, image: dict[str, bytes | None], folder: Path | None, node: _Node, name: str) -> None:
        """Puts a folder and what is in it into the image; `folder` is None where it is no longer there."""
        image[name] = None
        current = self._names(folder) if folder is not None else node.names
        whole = self._rng.random() < self._kept
        for one in sorted(node.names.keys() | current.keys()):
            before, now = node.names.get(one), current.get(one)
            moved = _elsewhere(before, one, current) or _elsewhere(now, one, node.names)
            late = whole if moved else self._rng.random() < self._kept
            chosen = now if late else before
            if chosen is None:
                continue
            path = folder / one if folder is not None and chosen is now else None
            below = f"{name}/{one}" if name else one
            if stat.S_ISDIR(os.fstat(chosen.held).st_mode):
                self._take(image, path, chosen, below)
            else:
                image[below] = self._content(chosen, path)

    def _content(self, node: _Node, path: Path | None) -> bytes:
        pending = node.pending
        if pending is None:
            now = path.read_bytes() if path is not None else node.durable
            if now == node.durable:
                return now
            pending = [Truncate(Path(), 0), Write(Path(), 0, now)]
        kept: list[Write | Truncate] = []
        for step in pending:
            if isinstance(step, Truncate):
                if self._rng.random() < self._kept:
                    kept.append(step)
                continue
            kept += [
                Write(step.file, step.offset + first, step.data[first : first + SECTOR])
                for first in range(0, len(step.data), SECTOR)
                if self._rng.random() < self._kept
            ]
        if kept and isinstance(last := kept[-1], Write) and self._kept < 1.0:
            kept[-1] = Write(last.file, last.offset, last.data[: self._rng.randint(1, len(last.data))])
        return _written(node.durable, kept)


def _elsewhere(node: _Node | None, name: str, names: dict[str, _Node]) -> bool:
    """Returns whether a node is among `names`, under another name."""
    return node is not None and names.get(name) is not node and any(one is node for one in names.values())


def _written(content: bytes, steps: list[Write | Truncate]) -> bytes:
    made = bytearray(content)
    for step in steps:
        end = step.size if isinstance(step, Truncate) else step.offset + len(step.data)
        made.extend(bytes(max(0, end - len(made))))
        if isinstance(step, Truncate):
            del made[step.size :]
        else:
            made[step.offset : end] = step.data
    return bytes(made)


def write_image(image: dict[str, bytes | None], root: Path) -> None:
    """Writes what a cut left to a folder that is not there."""
    for name, content in image.items():
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)
