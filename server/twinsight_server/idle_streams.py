"""Streams that wait for their caller's next message: draining would have to wait for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import grpc

StreamT = TypeVar("StreamT")


class IdleStreams(Generic[StreamT]):
    """The open streams that have no message in work. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: dict[StreamT, grpc.ServicerContext] = {}

    def add(self, stream: StreamT, context: grpc.ServicerContext) -> None:
        """Takes a stream that has nothing in work."""
        with self._lock:
            self._contexts[stream] = context

    def discard(self, stream: StreamT) -> None:
        """Forgets a stream."""
        with self._lock:
            self._contexts.pop(stream, None)

    @contextmanager
    def busy(self, stream: StreamT) -> Iterator[None]:
        """While a message of it is in work."""
        with self._lock:
            context = self._contexts.pop(stream)
        try:
            yield
        finally:
            self.add(stream, context)

    def end_all(self) -> None:
        """Cancels those that have nothing in work."""
        with self._lock:
            for context in self._contexts.values():
                context.cancel()
