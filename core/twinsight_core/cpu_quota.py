"""How much of the processor's time a container may have.

Docker's `--cpus` and Kubernetes' limits take no cores away: a process sees all of the machine's, and is stopped for the
rest of every tenth of a second in which it has had its share. With a thread on each of 64 cores and a quota of four it
stands still for most of the time, and so does every call.

Source: the Linux kernel's documentation of cgroups, version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

_CGROUPS, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cpu_quota(cgroups: Path = _CGROUPS, own: Path = _OWN) -> float:
    """Returns how many cores' time the process may have, over 0; infinity where nothing limits it, or none can tell.

    Args:
        cgroups: where the kernel shows the groups.
        own: says which of them are the process's.
    """
    try:
        lines = own.read_text(errors="surrogateescape").splitlines()  # groups have names of any bytes
    except OSError:  # not Linux
        return math.inf
    return min((quota for line in lines for quota in _quotas(cgroups, line)), default=math.inf)


def _quotas(cgroups: Path, line: str) -> Iterator[float]:
    """Yields the limits of a group and of those that it lies in.

    In a container the path may be the one outside, where the group itself is shown as the root.
    """
    parts = line.split(":", 2)
    if len(parts) < 3 or (parts[1] and "cpu" not in parts[1].split(",")):
        return
    _, controllers, path = parts
    within = [] if ".." in path else path.strip("/").split("/")
    # Kernels name the controllers in another order than their folder has them; `cpu` leads there, too.
    roots = [cgroups / controllers, cgroups / "cpu"] if controllers else [cgroups, cgroups / "unified"]
    for root in roots:
        for depth in range(len(within), -1, -1):
            folder = root.joinpath(*within[:depth])
            yield _version_1(folder) if controllers else _version_2(folder)


def _version_2(folder: Path) -> float:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    return _share(quota, period)


def _version_1(folder: Path) -> float:
    return _share(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _share(quota: str, period: str) -> float:
    """Returns the time in each period as a share of it; `max` and -1 are no limit."""
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return math.inf
    return int(quota) / int(period)
