"""Scalars for TensorBoard."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # made when it is imported
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]  # made when it is imported
from tensorboardX.record_writer import RecordWriter

_LOG = logging.getLogger(__name__)

_FLUSH_S = 10.0


class Events:
    """An event file, written by the thread that adds to it.

    tensorboardX's own `SummaryWriter` passes events to a thread, through a queue of ten. If that thread dies, on a full
    disk say, adding an eleventh blocks forever. Here a failure is logged once, and no more is written: the run's
    history has the measurements too.

    Args:
        folder: of the file, created if absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}"  # as TensorBoard looks for
        self._writer: RecordWriter | None = RecordWriter(str(self._folder / name))
        self._flushed_s = now
        self._write(Event(wall_time=now, file_version="brain.Event:2"), now)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Writes values by their names, measured after a step."""
        now = time.time()
        shown = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(Event(wall_time=now, step=step, summary=Summary(value=shown)), now)

    def close(self) -> None:
        """Writes what is left, and closes the file."""
        if self._writer is not None:
            with self._told():
                self._writer.close()
            self._writer = None

    def _write(self, event: Event, now: float) -> None:
        if self._writer is None:
            return
        with self._told():
            self._writer.write(event.SerializeToString())
            if now > self._flushed_s + _FLUSH_S:
                self._flushed_s = now
                self._writer.flush()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """If the file can't be written, logs that and gives up on it."""
        try:
            yield
        except OSError as error:
            _LOG.warning("%s: can't write more events for TensorBoard (%s)", self._folder, error)
            writer, self._writer = self._writer, None
            with contextlib.suppress(OSError):  # it tries once more, and is closed either way
                if writer is not None:
                    writer.close()
