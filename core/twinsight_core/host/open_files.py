"""How many files the process may have open, and how many it has.

Connections count, and so do the files that a collection keeps open. At the limit the kernel opens no more of either: a
new connection is not accepted, and its client waits. So some are reserved for connections, which long-lived files must
not use.
"""

from __future__ import annotations

import errno
import math
import os
import resource
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
"""Errors for too many open files: of this process, of the whole system."""

_OPEN = Path("/proc/self/fd")
_LEAST_RESERVE = 64
_RESERVED_SHARE = 4  # one in four
# What opened none may have closed some again since: SQLite, one of a database, its log and the log's index.
_NEEDED = 4


class OpenFiles(NamedTuple):
    """How many files are open, and may be.

    Attributes:
        in_use: that are open.
        limit: how many may be; infinity where there is none.
    """

    in_use: int
    limit: float

    @property
    def reserve(self) -> int:
        """What of the limit is kept for connections, and for what is open for a moment."""
        return 0 if math.isinf(self.limit) else max(_LEAST_RESERVE, int(self.limit) // _RESERVED_SHARE)

    @property
    def are_short(self) -> bool:
        """Whether less than the reserve is left."""
        return self.limit - self.in_use < self.reserve


def raise_limit() -> bool:
    """Raises the limit as far as the process itself may; returns whether it now is there."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError):  # of macOS, where a hard limit of infinity can't be had
        return False
    return True


def limit() -> float:
    """Returns how many files the process may have open; infinity where there is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


def open_files() -> OpenFiles | None:
    """Returns how many files are open, in time proportional to them; None if unknown (not Linux)."""
    try:
        in_use = len(list(_OPEN.iterdir())) - 1  # one is the listing's own
    except OSError as error:
        return OpenFiles(int(limit()), limit()) if error.errno == errno.EMFILE else None
    return OpenFiles(in_use, limit())


def exhausted() -> int | None:
    """Returns EMFILE or ENFILE if hardly any file can be opened any more; None otherwise."""
    with ExitStack() as opened:
        try:
            for _ in range(_NEEDED):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in EXHAUSTED:
                return error.errno
    return None
