"""The calls of the soak: sent from one event loop, each with at most one picture, and many of them given up."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message
from PIL import Image
from twinsight.v1.collection_service_pb2 import SearchResponse
from twinsight.v1.inference_service_pb2 import CompareResponse

from twinsight_client import Client, NewItem, operations
from twinsight_client.operations import Operation
from twinsight_client.results import Comparison, Match, ModelResults, Results

COLLECTION = "soak"
DIMENSION, ITEMS = 32, 2000
IN_FLIGHT, CHANNELS = 40, 4
_PATIENT_S = 60.0
_CANCELLED, _SHORT, _HOPELESS = 0.2, 0.2, 0.1
_HOPELESS_S = 0.001
CALLERS, PICTURES = 48, 8
"""Of those that leave at once: fewer calls than the server takes."""

_LOOKS = 100

R = TypeVar("R", bound=Message)
A = TypeVar("A")


class Kind(NamedTuple):
    """A call that may be sent.

    Attributes:
        method: gRPC's path.
        request: the message.
        pictures: that the server has to compute for it.
    """

    method: str
    request: bytes
    pictures: int


@dataclass
class Counts:
    """What became of calls.

    Attributes:
        codes: status codes by name.
        wanted: pictures of calls that were answered.
        given_up: pictures of calls that were cancelled or whose deadline passed.
        flaws: of calls that ended as they should not.
    """

    codes: Counter[str] = field(default_factory=Counter)
    wanted: int = 0
    given_up: int = 0
    flaws: list[str] = field(default_factory=list)


def picture(number: int) -> bytes:
    """Returns a small JPEG."""
    pixels = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def fill(address: str) -> None:
    """Makes the collection, with all of its items."""
    with Client(address) as client:
        client.create_collection(COLLECTION, dimension=DIMENSION)
        for start in range(0, ITEMS, 500):
            client.upsert(COLLECTION, [_item(n, 0) for n in range(start, start + 500)]).values()


def call_many(address: str, count: int, seed: int) -> Counts:
    """Sends calls, 40 at a time, and gives many of them up."""
    return asyncio.run(_call_many(address, count, seed))


def leave_at_once(address: str, arrived: Callable[[], bool], *, leave: bool) -> None:
    """Sends calls that fill the queue, and leaves; or waits for the answers.

    Args:
        address: HOST:PORT of the server.
        arrived: whether the server has the calls; asked again and again before the callers leave.
        leave: whether they do.
    """
    asyncio.run(_leave_at_once(address, arrived, leave=leave))


async def _call_many(address: str, count: int, seed: int) -> Counts:
    kinds = _kinds(random.Random(seed))
    counts = Counts()
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(_channel(address)) for _ in range(CHANNELS)]
        callers = [_Caller(channels[n % CHANNELS], kinds, random.Random(1000 * seed + n)) for n in range(IN_FLIGHT)]
        numbers = iter(range(count))
        await asyncio.gather(*(one.work(numbers, counts) for one in callers))
    return counts


class _Caller:
    """Sends one call after another."""

    def __init__(self, channel: grpc.aio.Channel, kinds: Sequence[Sequence[Kind]], rng: random.Random) -> None:
        self._kinds = kinds
        self._rng = rng
        self._took_s = 0.05  # moving average of answered calls
        methods = {kind.method for some in kinds for kind in some}
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {
            method: channel.unary_unary(method) for method in methods
        }

    async def work(self, numbers: Iterator[int], counts: Counts) -> None:
        """Sends calls until their numbers are used up."""
        for number in numbers:
            await self._call(number, counts)

    async def _call(self, number: int, counts: Counts) -> None:
        rng = self._rng
        kind = rng.choice(rng.choice(self._kinds))
        drawn = rng.random()
        timeout_s = _PATIENT_S
        if drawn < _HOPELESS:
            timeout_s = _HOPELESS_S
        elif drawn < _HOPELESS + _SHORT:
            timeout_s = rng.uniform(0.5, 4.0) * self._took_s
        cancels = rng.random() < _CANCELLED
        begun = time.perf_counter()
        call = self._methods[kind.method](kind.request, timeout=timeout_s)
        if cancels:
            asyncio.get_running_loop().call_later(rng.uniform(0.0, 2.0) * self._took_s, call.cancel)
        code = (await call.code()).name
        counts.codes[code] += 1
        if code == "OK":
            self._took_s += 0.05 * (time.perf_counter() - begun - self._took_s)
            counts.wanted += kind.pictures
        elif code != "RESOURCE_EXHAUSTED":
            counts.given_up += kind.pictures
        allowed = {"OK"} | ({"CANCELLED"} if cancels else set())
        if timeout_s != _PATIENT_S:
            allowed.add("DEADLINE_EXCEEDED")
        if code not in allowed and not (code == "RESOURCE_EXHAUSTED" and await _says_when(call)):
            counts.flaws.append(f"call {number}, {kind.method}, of {timeout_s:.3f} s ended with {code}")


async def _says_when(call: grpc.aio.UnaryUnaryCall[bytes, bytes]) -> bool:
    """Whether a refusal says when to come again."""
    trailing = await call.trailing_metadata()
    return any(b"google.rpc.RetryInfo" in value for _, value in trailing if isinstance(value, bytes))


async def _leave_at_once(address: str, arrived: Callable[[], bool], *, leave: bool) -> None:
    sent = _request(operations.embed([picture(n) for n in range(PICTURES)], model=""), PICTURES)
    async with _channel(address) as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(sent.method)
        await channel.channel_ready()
        calls = [method(sent.request, timeout=_PATIENT_S) for _ in range(CALLERS)]
        for _ in range(_LOOKS):
            if await asyncio.to_thread(arrived):
                break
        if leave:
            for one in calls:
                one.cancel()
        await asyncio.gather(*(one.code() for one in calls))


def _kinds(rng: random.Random) -> list[list[Kind]]:
    """Returns calls of each kind; the kinds are equally frequent."""
    pictures = [picture(n) for n in range(16)]
    some = range(200)

    def vector() -> np.ndarray:
        return np.random.default_rng(rng.randrange(1 << 30)).normal(size=DIMENSION).astype(np.float32)

    # Of the model's own dimension, so that a picture can be compared with it.
    other = np.random.default_rng(0).normal(size=256).astype(np.float32)

    def items(version: int) -> list[NewItem]:
        return [_item(rng.randrange(ITEMS), version) for _ in range(5)]

    def names() -> list[str]:
        return [f"i{rng.randrange(ITEMS)}" for _ in range(4)]

    return [
        [_request(operations.embed([one], model=""), 1) for one in pictures],
        [_request(_compare(one, other), 1) for one in pictures],
        [_request(_search(vector()), 0) for _ in some],
        [_request(operations.upsert(COLLECTION, items(n), vector_model_digest=""), 0) for n in some],
        [_request(operations.delete_items(COLLECTION, ids=names(), where=None, purge=False), 0) for _ in some],
    ]


def _compare(left: bytes, right: np.ndarray) -> Operation[CompareResponse, ModelResults[Comparison]]:
    return operations.compare([(left, right)], model="", vector_model_digest="", target_fmr=None)


def _search(query: np.ndarray) -> Operation[SearchResponse, Results[list[Match]]]:
    return operations.search(
        COLLECTION,
        [query],
        top_k=10,
        where=None,
        min_score=None,
        exact=False,
        ef=0,
        include_metadata=True,
        include_vectors=False,
        exclude_self=False,
        vector_model_digest="",
    )


def _request(operation: Operation[R, A], pictures: int) -> Kind:
    return Kind(operation.method, operation.request.SerializeToString(), pictures)


def _item(number: int, version: int) -> NewItem:
    vector = np.random.default_rng([number, version]).normal(size=DIMENSION).astype(np.float32)
    return NewItem(f"i{number}", vector, {"version": version})


def _channel(address: str) -> grpc.aio.Channel:
    # gRPC lets channels with the same arguments share one connection otherwise.
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
