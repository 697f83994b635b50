"""All promises that `python -m benchmarks.torture` tries."""

from __future__ import annotations

from benchmarks.torture import (
    churn,
    full_disk,
    hostile_messages,
    hostile_pictures,
    kill,
    own_writes,
    power_cut,
    replacement,
    snapshot_damage,
)
from benchmarks.torture.promise import Promise

STORAGE: tuple[Promise, ...] = (
    kill.PROMISE,
    power_cut.PROMISE,
    full_disk.PROMISE,
    snapshot_damage.PROMISE,
    own_writes.PROMISE,
    churn.PROMISE,
    replacement.PROMISE,
)
SERVING: tuple[Promise, ...] = (hostile_pictures.PROMISE, hostile_messages.PROMISE)

PROMISES = {promise.name: promise for promise in (*STORAGE, *SERVING)}
