"""The control groups by which the kernel limits a process's resources.

Source: the Linux kernel's documentation of cgroups, versions 1 and 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class ControlGroup:
    """A control group, which need not exist.

    Attributes:
        version: of cgroups, 1 or 2: the files have other names.
        folder: where its files are.
    """

    version: int
    folder: Path

    def read(self, name: str) -> str:
        """Returns the content of one of the group's files; empty if it does not exist."""
        try:
            return (self.folder / name).read_text().strip()
        except OSError:
            return ""


def control_groups(controller: str, cgroups: Path = CGROUPS, own: Path = OWN) -> Iterator[ControlGroup]:
    """Yields the groups that limit the process, and those that they lie in.

    Args:
        controller: `cpu` or `memory`.
        cgroups: where the kernel shows the groups.
        own: says which of them are the process's.
    """
    try:
        lines = own.read_text(errors="surrogateescape").splitlines()  # groups have names of any bytes
    except OSError:  # not Linux
        return
    for line in lines:
        parts = line.split(":", 2)
        if len(parts) < 3 or (parts[1] and controller not in parts[1].split(",")):
            continue
        _, controllers, path = parts
        # In a container the path may be the one outside, where the group itself is shown as the root.
        within = [] if ".." in path else path.strip("/").split("/")
        # Kernels name the controllers in another order than their folder has them; each leads there alone, too.
        roots = [cgroups / controllers, cgroups / controller] if controllers else [cgroups, cgroups / "unified"]
        for root in roots:
            for depth in range(len(within), -1, -1):
                yield ControlGroup(1 if controllers else 2, root.joinpath(*within[:depth]))
