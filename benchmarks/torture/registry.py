"""All promises that `python -m benchmarks.torture` tries."""

from __future__ import annotations

from benchmarks.torture import power_cut
from benchmarks.torture.promise import Promise

STORAGE: tuple[Promise, ...] = (power_cut.PROMISE,)
SERVING: tuple[Promise, ...] = ()

PROMISES = {promise.name: promise for promise in (*STORAGE, *SERVING)}
