"""All promises that `python -m benchmarks.torture` tries."""

from __future__ import annotations

from benchmarks.torture import full_disk, kill, power_cut, snapshot_damage
from benchmarks.torture.promise import Promise

STORAGE: tuple[Promise, ...] = (kill.PROMISE, power_cut.PROMISE, full_disk.PROMISE, snapshot_damage.PROMISE)
SERVING: tuple[Promise, ...] = ()

PROMISES = {promise.name: promise for promise in (*STORAGE, *SERVING)}
