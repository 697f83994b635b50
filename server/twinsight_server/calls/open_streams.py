"""Tracks open streams, so that a drain can end those that wait for a message, and an invalid token its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import grpc

StreamT = TypeVar("StreamT")


class OpenStreams(Generic[StreamT]):
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

    def end_idle(self) -> None:
        """Cancels all idle streams."""
        with self._lock:
            for stream, context in self._contexts.items():
                if stream not in self._busy:
                    context.cancel()

    def end(self, ends: Callable[[StreamT], bool]) -> int:
        """Cancels the streams for which `ends` is true, whatever they do; returns how many there were."""
        with self._lock:
            there = list(self._contexts.items())
        ended = [context for stream, context in there if ends(stream)]  # without the lock, which every message needs
        for context in ended:
            context.cancel()
        return len(ended)
