"""A lock that many readers or one writer may hold, under which neither starves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ReadWriteLock:
    """Readers together, a writer alone, in turns.

    A waiting writer goes before readers that come after it, so that a stream of searches can't starve it: with a lock
    that lets readers pass, the writer of a busy graph waited forever. A finished writer admits the readers that waited
    for it before the next writer, so that bulk writing can't starve searches either. Not reentrant.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._readers = 0
        self._writing = False
        self._waiting_writers = 0
        self._waiting_readers = 0
        self._writes_done = 0

    @contextmanager
    def read(self) -> Iterator[None]:
        """Holds the lock with other readers."""
        self.acquire_read()
        try:
            yield
        finally:
            self.release_read()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Holds the lock alone."""
        self.acquire_write()
        try:
            yield
        finally:
            self.release_write()

    def acquire_read(self) -> None:
        """Waits for at most one writer and joins the readers."""
        with self._changed:
            if not self._writing and not self._waiting_writers:
                self._readers += 1
                return
            turn = self._writes_done
            self._waiting_readers += 1
            while turn == self._writes_done:
                self._changed.wait()
            # The writer that ended the turn has counted this reader in.

    def release_read(self) -> None:
        """Leaves the readers."""
        with self._changed:
            self._readers -= 1
            if not self._readers and self._waiting_writers:
                self._changed.notify_all()

    def acquire_write(self) -> None:
        """Waits until nobody holds the lock, and takes it."""
        with self._changed:
            self._waiting_writers += 1
            while self._writing or self._readers:
                self._changed.wait()
            self._waiting_writers -= 1
            self._writing = True

    def release_write(self) -> None:
        """Passes the lock to the waiting readers, or otherwise to the next writer."""
        with self._changed:
            self._writing = False
            self._writes_done += 1
            self._readers += self._waiting_readers
            self._waiting_readers = 0
            self._changed.notify_all()
