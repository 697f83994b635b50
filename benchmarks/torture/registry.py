"""All promises that `python -m benchmarks.torture` tries."""

from __future__ import annotations

from benchmarks.torture import (
    backup,
    churn,
    full_disk,
    hostile_messages,
    hostile_pictures,
    kill,
    overload,
    own_writes,
    power_cut,
    purge,
    replacement,
    shutdown,
    snapshot_damage,
    soak,
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
    backup.PROMISE,
    purge.PROMISE,
)
SERVING: tuple[Promise, ...] = (
    overload.PROMISE,
    shutdown.PROMISE,
    soak.PROMISE,
    hostile_pictures.DECODER,
    hostile_pictures.FLOOD,
    hostile_pictures.TRAFFIC,
    hostile_messages.PROMISE,
)

PROMISES = {promise.name: promise for promise in (*STORAGE, *SERVING)}
