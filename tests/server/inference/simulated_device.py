"""A model's queue, two lanes and one device on a simulated clock."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from twinsight_server.inference.batch_wait import BatchWait


@dataclass(frozen=True)
class Device:
    """Computes a batch of n in `fixed_s + n * each_s`, one batch after the other."""

    fixed_s: float
    each_s: float
    lanes: int = 2
    max_batch: int = 32


@dataclass
class Served:
    """What came of it: a batch's size, the wait after it, and its pictures' times."""

    sizes: list[int] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)

    def p99_s(self, skip: int = 0) -> float:
        times = sorted(self.took_s[skip:])
        return times[math.ceil(0.99 * len(times)) - 1]

    def mean_size(self, last: int) -> float:
        return sum(self.sizes[-last:]) / len(self.sizes[-last:])


def poisson(rate: float, until_s: float, *, start_s: float = 0.0, seed: int = 1) -> Iterator[float]:
    """Yields the times at which pictures come."""
    chance = random.Random(seed)
    now = start_s
    while (now := now + chance.expovariate(rate)) < until_s:
        yield now


def simulate(wait: BatchWait, device: Device, arrivals: Iterable[float], served: Served | None = None) -> Served:
    """Serves what comes as the batcher's lanes do while other pictures are being decoded."""
    served = served or Served()
    coming = deque(arrivals)
    waiting: deque[float] = deque()
    computing: deque[tuple[float, float, list[float]]] = deque()  # ends, begun, since; in order
    device_free = now = 0.0
    waited_with: int | None = None
    while coming or waiting or computing:
        take = math.inf
        if waiting and len(computing) < device.lanes:
            full = len(waiting) >= device.max_batch
            take = now if full else max(now, waiting[0] + wait.seconds)
            if take > now and waited_with is None:
                waited_with = len(waiting)
        ends = computing[0][0] if computing else math.inf
        comes = coming[0] if coming else math.inf
        now = min(take, ends, comes)
        if now == ends:
            _, begun, since = computing.popleft()
            wait.served(begun, now, since)
            served.sizes.append(len(since))
            served.waits_s.append(wait.seconds)
            served.took_s += [now - one for one in since]
        elif now == comes:
            waiting.append(coming.popleft())
        else:
            if waited_with is not None:
                wait.waited(len(waiting) - waited_with)
                waited_with = None
            batch = [waiting.popleft() for _ in range(min(len(waiting), device.max_batch))]
            device_free = max(device_free, now) + device.fixed_s + device.each_s * len(batch)
            computing.append((device_free, now, batch))
    return served
