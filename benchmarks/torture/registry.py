"""All promises that `python -m benchmarks.torture` tries."""

from __future__ import annotations

from benchmarks.torture.promise import Promise

STORAGE: tuple[Promise, ...] = ()
SERVING: tuple[Promise, ...] = ()

PROMISES = {promise.name: promise for promise in (*STORAGE, *SERVING)}
