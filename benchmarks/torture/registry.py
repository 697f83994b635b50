"""All promises that `python -m benchmarks.torture` tries."""

from __future__ import annotations

from benchmarks.torture import hostile_messages, hostile_pictures
from benchmarks.torture.promise import Promise

STORAGE: tuple[Promise, ...] = ()
SERVING: tuple[Promise, ...] = (hostile_pictures.PROMISE, hostile_messages.PROMISE)

PROMISES = {promise.name: promise for promise in (*STORAGE, *SERVING)}
