"""The CPU time that a container may use.

Docker's `--cpus` and Kubernetes' limits do not remove cores: a process sees all of the machine's, and is stopped for
the rest of every tenth of a second once it has used its share. With a thread on each of 64 cores and a quota of four,
it is stopped most of the time, and so is every call.

Source: the Linux kernel's documentation of cgroups, version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`).
"""

from __future__ import annotations

import math
from pathlib import Path

from twinsight_core.host.control_groups import CGROUPS, OWN, ControlGroup, control_groups


def cpu_quota(cgroups: Path = CGROUPS, own: Path = OWN) -> float:
    """Returns how many cores' time the process may have, over 0; infinity where nothing limits it, or none can tell.

    Args:
        cgroups: where the kernel shows the groups.
        own: says which of them are the process's.
    """
    return min((_quota(group) for group in control_groups("cpu", cgroups, own)), default=math.inf)


def _quota(group: ControlGroup) -> float:
    """Returns a group's time in each period as a share of it; `max` and -1 are no limit."""
    if group.version == 1:
        quota, period = group.read("cpu.cfs_quota_us"), group.read("cpu.cfs_period_us")
    else:
        quota, _, period = group.read("cpu.max").partition(" ")
    if not (quota.isdecimal() and period.isdecimal() and int(quota) and int(period)):
        return math.inf
    return int(quota) / int(period)
