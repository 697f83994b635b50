"""Tracks streams that wait for their caller's next message, so that a drain can end them."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

import grpc

StreamT = TypeVar("StreamT")


class IdleStreams(Generic[StreamT]):
    """The open streams, and which of them are processing a message. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._contexts: dict[StreamT, grpc.ServicerContext] = {}
        self._busy: set[StreamT] = set()

    def add(self, stream: StreamT, context: grpc.ServicerContext) -> None:
        """Adds an idle stream."""
        with self._lock:
            self._contexts[stream] = context

    def discard(self, stream: StreamT) -> None:
        """Forgets a stream."""
        with self._lock:
            self._contexts.pop(stream, None)
            self._busy.discard(stream)

    def begin(self, stream: StreamT) -> None:
        """Marks a stream as processing a message, until its response has left."""
        with self._lock:
            self._busy.add(stream)

    def wait(self, stream: StreamT) -> None:
        """Marks a stream as idle again."""
        with self._lock:
            self._busy.discard(stream)

    def end_all(self) -> None:
        """Cancels all idle streams."""
        with self._lock:
            for stream, context in self._contexts.items():
                if stream not in self._busy:
                    context.cancel()
