"""Streams that wait for their caller's next message: draining would have to wait for them."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

import grpc

StreamT = TypeVar("StreamT")


class IdleStreams(Generic[StreamT]):
    """The open streams, and which of them have no message in work. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: dict[StreamT, grpc.ServicerContext] = {}
        self._busy: set[StreamT] = set()

    def add(self, stream: StreamT, context: grpc.ServicerContext) -> None:
        """Takes a stream that has nothing in work."""
        with self._lock:
            self._contexts[stream] = context

    def discard(self, stream: StreamT) -> None:
        """Forgets a stream."""
        with self._lock:
            self._contexts.pop(stream, None)
            self._busy.discard(stream)

    def begin(self, stream: StreamT) -> None:
        """A message of it is in work from now on, until its answer has left."""
        with self._lock:
            self._busy.add(stream)

    def wait(self, stream: StreamT) -> None:
        """It waits for its caller again."""
        with self._lock:
            self._busy.discard(stream)

    def end_all(self) -> None:
        """Cancels those that have nothing in work."""
        with self._lock:
            for stream, context in self._contexts.items():
                if stream not in self._busy:
                    context.cancel()
