"""Files in memory, for a library that accepts only paths, and whether there is memory for them.

A file in memory (`memfd_create`) has no name in any file system and is gone when it is closed. It counts as the
process's memory, and in a container towards its limit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from twinsight_core.host.control_groups import CGROUPS, OWN, ControlGroup, control_groups

_MEMORY = Path("/proc/meminfo")
# Of the memory that is left, what a file may take: searches and writes go on meanwhile.
_MOST_SHARE = 0.5


@contextmanager
def memory_file() -> Iterator[tuple[BinaryIO, Path]]:
    """Yields an empty file in memory, and a path to it that is valid while it is open."""
    descriptor = os.memfd_create("twinsight")
    with os.fdopen(descriptor, "r+b") as file:
        yield file, Path(f"/proc/self/fd/{descriptor}")


def memory_has_room(size: int) -> bool:
    """Returns whether a file of `size` bytes may be made in memory."""
    return hasattr(os, "memfd_create") and size <= _MOST_SHARE * memory_left()


def memory_left(memory: Path = _MEMORY, cgroups: Path = CGROUPS, own: Path = OWN) -> float:
    """Returns how many more bytes the process may take; 0 if unknown.

    Args:
        memory: what the kernel says of the machine's memory.
        cgroups: where the kernel shows the groups.
        own: says which of them are the process's.
    """
    try:
        lines = dict(line.split(":", 1) for line in memory.read_text().splitlines())
        left: float = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux
        return 0
    return max(0, min([left, *(_left(group) for group in control_groups("memory", cgroups, own))]))


def _left(group: ControlGroup) -> float:
    old = group.version == 1
    limit = group.read("memory.limit_in_bytes" if old else "memory.max")
    used = group.read("memory.usage_in_bytes" if old else "memory.current")
    if not (limit.isdecimal() and used.isdecimal()):  # `max` is no limit
        return math.inf
    # What is used counts the page cache, too, most of which the kernel gives up when it is needed.
    cached = dict(line.split() for line in group.read("memory.stat").splitlines())
    return int(limit) - int(used) + int(cached.get("total_inactive_file" if old else "inactive_file", 0))
