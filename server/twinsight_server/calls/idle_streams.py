"""Tracks streams that wait for their caller's next message, so that a drain, or a token that expires, can end them."""

from __future__ import annotations

import threading
from collections.abc import Callable
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
        self.end(lambda _: True)

    def end(self, ends: Callable[[StreamT], bool]) -> int:
        """Cancels the idle streams for which `ends` is true; returns how many there were."""
        with self._lock:
            idle = [stream for stream in self._contexts if stream not in self._busy]
        chosen = list(filter(ends, idle))  # without the lock, which every message needs
        ended = 0
        with self._lock:
            for stream in chosen:
                context = self._contexts.get(stream)
                if context is not None and stream not in self._busy:
                    context.cancel()
                    ended += 1
        return ended
