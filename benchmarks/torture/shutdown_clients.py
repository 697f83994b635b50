"""Clients of a server that is told to stop: what each sent, when, and what became of it.

Times are seconds of `time.monotonic`. No call is sent again, so that each is seen as it ended; a client works until one
of its calls fails.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import grpc
import numpy as np
from grpc_health.v1 import health_pb2

from twinsight_client import Client, NewItem
from twinsight_client.errors import TwinsightClientError
from twinsight_client.results import Results
from twinsight_client.retry import RetryPolicy

COLLECTION, DIMENSION = "kept", 32
OK = "OK"
_BATCH = 10
_LARGE = 24
"""Pictures of a call that takes long."""

T = TypeVar("T")
R = TypeVar("R")


class Ended(NamedTuple):
    """A call, or a message of a stream, that is over.

    Attributes:
        kind: what was called.
        begun: when it was sent.
        ended: when it was over.
        code: name of the status code.
    """

    kind: str
    begun: float
    ended: float
    code: str


@dataclass
class Told:
    """What clients were told. Threads add to it.

    Attributes:
        ended: calls that are over, and messages of the streams that send one at a time.
        acknowledged: ids of items whose writing was answered.
        ingest_code: with which the stream ended that sends as much as it may.
        not_serving: when the watched health said NOT_SERVING; infinite: it did not.
    """

    ended: list[Ended] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    ingest_code: str = ""
    not_serving: float = float("inf")


class Clients:
    """Clients at work, each in a thread with a channel of its own.

    Args:
        address: HOST:PORT of a server that has the collection.
        picture: an encoded one, which is sent again and again.
        name: begins the ids of all items that are written.

    Attributes:
        told: what they are told.
    """

    def __init__(self, address: str, picture: bytes, name: str) -> None:
        self.told = Told()
        self._address = address
        self._picture = picture
        self._names = (f"{name}-{number}" for number in itertools.count())
        self._naming = threading.Lock()
        works: list[Callable[[Client], None]] = [
            *(self._calling("Embed", lambda one: one.embed([self._picture])) for _ in range(3)),
            self._calling("Embed of many", lambda one: one.embed([self._picture] * _LARGE)),
            *(self._calling("Search", self._search) for _ in range(2)),
            self._calling("Upsert", self._upsert),
            self._embed_stream,
            self._ingest_one_by_one,
            self._ingest,
        ]
        self._pool = ThreadPoolExecutor(len(works) + 1)
        self._channel = grpc.insecure_channel(address)
        self._watching = self._pool.submit(self._watch)
        self._workers = [self._pool.submit(self._work, one) for one in works]

    def wait(self, calls: int, timeout_s: float) -> bool:
        """Waits until so many calls are over; returns whether they are."""
        end = time.monotonic() + timeout_s
        while len(self.told.ended) < calls and time.monotonic() < end:
            time.sleep(0.01)
        return len(self.told.ended) >= calls

    def join(self) -> Told:
        """Waits, once the server is gone, for all of them, and returns what they were told."""
        _results(self._workers)
        self._channel.close()
        self._watching.result()
        self._pool.shutdown()
        return self.told

    def _work(self, work: Callable[[Client], None]) -> None:
        with Client(self._address, retry=RetryPolicy(attempts=1)) as client:
            work(client)

    def _calling(self, kind: str, call: Callable[[Client], object]) -> Callable[[Client], None]:
        """Returns what calls again and again until a call fails."""

        def work(client: Client) -> None:
            code = OK
            while code == OK:
                begun = time.monotonic()
                code = _code_of(lambda: call(client))
                self.told.ended.append(Ended(kind, begun, time.monotonic(), code))

        return work

    def _search(self, client: Client) -> None:
        client.search(COLLECTION, [vector_of("query")], top_k=3).values()

    def _upsert(self, client: Client) -> None:
        items = [self._item() for _ in range(_BATCH)]
        self.told.acknowledged.update(client.upsert(COLLECTION, items).values())

    def _embed_stream(self, client: Client) -> None:
        self._one_by_one(
            "EmbedStream", lambda: self._picture, lambda pictures: client.embed_stream(pictures, batch_size=1)
        )

    def _ingest_one_by_one(self, client: Client) -> None:
        def answers(items: Iterator[NewItem]) -> Iterator[Results[str]]:
            for answer in client.ingest(COLLECTION, items, batch_size=1):
                self.told.acknowledged.update(answer.values())
                yield answer

        self._one_by_one("IngestItems", self._item, answers)

    def _one_by_one(
        self, kind: str, make: Callable[[], T], answers: Callable[[Iterator[T]], Iterator[Results[R]]]
    ) -> None:
        """Sends a stream's next message when the last was answered, until the stream ends."""
        may_send, over = threading.Semaphore(1), threading.Event()
        sent: list[float] = []
        answered = 0

        def things() -> Iterator[T]:
            while may_send.acquire() and not over.is_set():
                sent.append(time.monotonic())
                yield make()

        def read() -> None:
            nonlocal answered
            for answer in answers(things()):
                answer.values()
                self.told.ended.append(Ended(kind, sent[answered], time.monotonic(), OK))
                answered += 1
                may_send.release()

        code, now = _code_of(read), time.monotonic()
        # It may end between an answer and the next message.
        self.told.ended.append(Ended(kind, sent[answered] if answered < len(sent) else now, now, code))
        over.set()
        may_send.release()

    def _ingest(self, client: Client) -> None:
        """Sends as much as it may, until the stream ends."""
        over = threading.Event()

        def items() -> Iterator[NewItem]:
            while not over.is_set():
                yield self._item()

        def read() -> None:
            for answer in client.ingest(COLLECTION, items(), batch_size=_BATCH):
                self.told.acknowledged.update(answer.values())

        self.told.ingest_code = _code_of(read)
        over.set()

    def _item(self) -> NewItem:
        with self._naming:
            name = next(self._names)
        return NewItem(name, vector_of(name))

    def _watch(self) -> None:
        method = "/" + health_pb2.DESCRIPTOR.services_by_name["Health"].full_name + "/Watch"
        watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(method)
        with suppress(grpc.RpcError, grpc.FutureCancelledError):
            for said in watch(health_pb2.HealthCheckRequest().SerializeToString()):
                if health_pb2.HealthCheckResponse.FromString(said).status == health_pb2.HealthCheckResponse.NOT_SERVING:
                    self.told.not_serving = min(self.told.not_serving, time.monotonic())


def vector_of(name: str) -> np.ndarray:
    """Returns the vector of an item, `[dimension] float32`."""
    return np.random.default_rng([*name.encode()]).normal(size=DIMENSION).astype(np.float32)


def flaws(told: Told, stopped: float) -> Iterator[str]:
    """Yields what should not have become of calls to a server that was told to stop at a time."""
    for one in told.ended:
        before = one.begun < stopped
        if one.code != OK and (before or one.code != "UNAVAILABLE"):
            when = (one.begun - stopped) * 1e3
            yield f"{one.kind}, sent {when:+.0f} ms from SIGTERM, ended with {one.code}"
    if told.ingest_code != "UNAVAILABLE":
        yield f"the stream of IngestItems ended with {told.ingest_code}"
    refused = min((one.ended for one in told.ended if one.code != OK), default=float("inf"))
    if told.not_serving > refused:
        yield f"a call was refused {(refused - stopped) * 1e3:.0f} ms after SIGTERM, before NOT_SERVING was seen"


def _code_of(call: Callable[[], object]) -> str:
    try:
        call()
    except TwinsightClientError as error:
        return error.code
    return OK


def _results(futures: Sequence[Future[None]]) -> None:
    for one in futures:
        one.result()
