"""Hostile pictures among good traffic: a share of the calls brings one, and the others must not notice.

Callers send Embed calls of one picture each, four at a time. Slices of this traffic take turns with slices of the same
good calls alone, so that what else the machine does falls on both alike. A good call's vector must be the one that the
server gave before, as far as batches of another size round; a hostile one must be refused as a bad picture, or decoded.
The slowest hostile picture of each slice goes to the server once more, alone, to see what time of the processor and
what memory it takes.
"""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
from PIL import Image

from benchmarks.processors import cpu_s
from benchmarks.serving import Served
from benchmarks.torture.pictures import hostile_picture
from benchmarks.torture.watch import forget_peak, status_mb
from twinsight.v1 import inference_service_pb2 as inference_pb
from twinsight.v1 import types_pb2

IN_FLIGHT = 4
SLICE, SHARE = 50, 0.05
"""Hostile pictures of a slice, and their usual share of its calls."""

_ALONE_EVERY = 4
"""Slices with hostile pictures for each without."""

_TOLERANCE = 1e-3
"""Of a vector's component, as the test picture behind health has it."""

_METHOD = "/twinsight.v1.InferenceService/Embed"
_PATIENT_S = 120.0
_GOOD = 20


@dataclass
class Traffic:
    """What traffic showed.

    Attributes:
        flaws: what went against the promise.
        outcomes: of hostile pictures: decoded, or the status code they were refused with.
        beside_ms: latencies of good calls beside hostile ones.
        alone_ms: latencies of the same calls without.
        slowest_s: most time of the processor for one hostile picture, alone.
        most_mb: most memory for one, alone.
        most_beside_mb: most memory in a slice.
        hostile: pictures sent.
    """

    flaws: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    beside_ms: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)
    slowest_s: float = 0.0
    most_mb: float = 0.0
    most_beside_mb: float = 0.0
    hostile: int = 0

    def p99s(self) -> tuple[float, float]:
        """Returns the p99 of good calls in ms, beside hostile ones and alone."""
        beside, alone = (float(np.percentile(one, 99)) for one in (self.beside_ms, self.alone_ms))
        return beside, alone


def traffic(served: Served, first: int, count: int, *, share: float = SHARE) -> Traffic:
    """Sends the hostile pictures of `count` seeds from `first` on, as a `share` of all calls."""
    return asyncio.run(_Sender(served, share).run(first, count))


class _Sender:
    """Sends slices."""

    def __init__(self, served: Served, share: float) -> None:
        self._served = served
        self._good_for_each = 1 / share - 1
        self._good = [_request(one) for one in _good_pictures()]
        self._expected: list[np.ndarray] = []
        self._shown = Traffic()

    async def run(self, first: int, count: int) -> Traffic:
        """Sends all slices and returns what they showed."""
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._served.address, options=options) as channel:
            self._embed: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
            self._expected = [_vector(await self._sent(one)) for one in self._good]
            for number, start in enumerate(range(first, first + count, SLICE)):
                seeds = range(start, min(start + SLICE, first + count))
                order = random.Random(start)
                good = [order.randrange(_GOOD) for _ in range(round(len(seeds) * self._good_for_each))]
                if number % _ALONE_EVERY == 0:
                    await self._slice(good, (), order)
                await self._slice(good, seeds, order)
        self._shown.hostile = count
        return self._shown

    async def _slice(self, good: Sequence[int], seeds: Sequence[int], order: random.Random) -> None:
        # Made before, since making some takes longer than decoding them.
        hostile = {seed: _request(hostile_picture(seed)) for seed in seeds}
        calls: list[tuple[str, int]] = [("good", one) for one in good] + [("hostile", seed) for seed in seeds]
        order.shuffle(calls)
        before_mb = self._resident_mb()
        took_s: dict[int, float] = {}
        latencies = self._shown.beside_ms if seeds else self._shown.alone_ms
        left = iter(calls)

        async def work() -> None:
            for kind, one in left:
                begun = time.perf_counter()
                if kind == "good":
                    await self._send_good(one)
                    latencies.append((time.perf_counter() - begun) * 1e3)
                else:
                    await self._send_hostile(one, hostile[one])
                    took_s[one] = time.perf_counter() - begun

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        if seeds:
            self._shown.most_beside_mb = max(self._shown.most_beside_mb, self._peak_mb() - before_mb)
            slowest = max(took_s, key=lambda seed: took_s[seed])
            await self._measure_alone(slowest, hostile[slowest])

    async def _send_good(self, one: int) -> None:
        try:
            vector = _vector(await self._sent(self._good[one]))
        except (grpc.aio.AioRpcError, ValueError) as error:
            self._shown.flaws.append(f"a good call failed: {_code(error)}")
            return
        off = float(np.abs(vector - self._expected[one]).max())
        if off > _TOLERANCE:
            self._shown.flaws.append(f"good picture {one} was answered with a vector that is {off:.3g} off")

    async def _send_hostile(self, seed: int, request: bytes) -> None:
        try:
            answer = inference_pb.EmbedResponse.FromString(await self._sent(request))
            (result,) = answer.results
            code = grpc_code(result.error.code) if result.HasField("error") else "decoded"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        self._shown.outcomes[code] += 1
        if code not in {"decoded", "INVALID_ARGUMENT"}:
            self._shown.flaws.append(f"seed {seed}: {code}")

    async def _measure_alone(self, seed: int, request: bytes) -> None:
        before_mb, before_s = self._resident_mb(), cpu_s(self._served.pid)
        await self._send_hostile(seed, request)
        took_s, took_mb = cpu_s(self._served.pid) - before_s, self._peak_mb() - before_mb
        self._shown.slowest_s = max(self._shown.slowest_s, took_s)
        self._shown.most_mb = max(self._shown.most_mb, took_mb)

    async def _sent(self, request: bytes) -> bytes:
        return await self._embed(request, timeout=_PATIENT_S)

    def _resident_mb(self) -> float:
        forget_peak(self._served.pid)
        return status_mb(self._served.pid, "VmRSS")

    def _peak_mb(self) -> float:
        return status_mb(self._served.pid, "VmHWM")


def grpc_code(number: int) -> str:
    """Returns the name of a status code."""
    return next((code.name for code in grpc.StatusCode if code.value[0] == number), f"code {number}")


def _good_pictures() -> Iterator[bytes]:
    for number in range(_GOOD):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        out = io.BytesIO()
        kind = ("JPEG", "PNG", "WEBP")[number % 3]
        Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC).save(out, kind)
        yield out.getvalue()


def _request(encoded: bytes) -> bytes:
    return inference_pb.EmbedRequest(images=[types_pb2.Image(encoded=encoded)]).SerializeToString()


def _vector(answer: bytes) -> np.ndarray:
    """Returns the vector of the only result.

    Raises:
        ValueError: it has none.
    """
    (result,) = inference_pb.EmbedResponse.FromString(answer).results
    if not result.HasField("embedding"):
        raise ValueError(grpc_code(result.error.code))
    return np.frombuffer(result.embedding.vector, "<f4")


def _code(error: grpc.aio.AioRpcError | ValueError) -> str:
    return error.code().name if isinstance(error, grpc.aio.AioRpcError) else str(error)
