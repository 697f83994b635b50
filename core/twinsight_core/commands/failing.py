"""How a command that fails ends."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from twinsight_core.commands.output import LineFormatter, write_line
from twinsight_core.errors import TwinsightError

PARTIAL = 3
"""Exit code if all was done except for some things, which are listed; the client's commands use the same."""


@contextmanager
def exit_on_failure() -> Iterator[None]:
    """Ends the process with status 1 and a line on standard error if a TwinsightError or OSError is raised."""
    if logging.lastResort is not None:  # receives the core's log records if a command configures no logging
        logging.lastResort.setFormatter(LineFormatter())
    try:
        yield
    except TwinsightError as error:
        for number, line in enumerate(error.lines):
            write_line(line if number else f"twinsight: {line}", err=True)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        write_line(f"twinsight: {where}{error.strerror or error}", err=True)
        sys.exit(1)


@contextmanager
def clean_up_at_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise SystemExit with status 143, so that unfinished files are removed; ignores a second one.

    Only in the main thread.
    """

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
