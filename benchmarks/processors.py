"""What processes cost: time of the processors and memory, as the kernel counts them."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Returns the seconds that all threads of a process have computed, in user and kernel mode, to 10 ms."""
    # The name, in brackets, may hold spaces and brackets; utime and stime are fields 14 and 15 of `man proc_pid_stat`.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def wait_at_rest(pid: int, *, for_s: float = 2.0, within_s: float = 300.0, cores: float = 0.05) -> None:
    """Waits until a process has used hardly any of the processors for a while: what it does by itself is done.

    Args:
        pid: of the process.
        for_s: how long the while is.
        within_s: longest wait.
        cores: on average over the while, that still count as rest.

    Raises:
        TimeoutError: it did not come to rest.
    """
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        before = cpu_s(pid)
        time.sleep(for_s)
        if cpu_s(pid) - before <= cores * for_s:
            return
    raise TimeoutError(f"Process {pid} did not come to rest within {within_s:g} s.")


class CpuWatch:
    """Cores that this process and another one use, on average from `begin` to `end`; the first call of each counts.

    Args:
        pid: of the other.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._begun: tuple[float, float, float] | None = None
        self._ended: tuple[float, float, float] | None = None

    def begin(self) -> None:
        """Begins, unless it has begun."""
        self._begun = self._begun or self._now()

    def end(self) -> None:
        """Ends, unless it has ended."""
        self._ended = self._ended or self._now()

    def cores(self) -> dict[str, float]:
        """Returns the cores by `load_cores` (this process) and `server_cores` (the other).

        Raises:
            RuntimeError: it has not begun.
        """
        if self._begun is None:
            raise RuntimeError("The watch has not begun.")
        wall, mine, other = (
            after - before for before, after in zip(self._begun, self._ended or self._now(), strict=True)
        )
        return {"load_cores": round(mine / max(wall, 1e-9), 3), "server_cores": round(other / max(wall, 1e-9), 3)}

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), cpu_s(self._pid)


def memory_mib(pid: int) -> dict[str, float]:
    """Returns what a process has in memory: `rss`, `pss` (its share of what is shared) and `private`."""
    kib: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        kib[name] = int(value.split()[0])
    private = kib["Private_Clean"] + kib["Private_Dirty"]
    return {
        name: round(value / 1024, 2) for name, value in (("rss", kib["Rss"]), ("pss", kib["Pss"]), ("private", private))
    }
