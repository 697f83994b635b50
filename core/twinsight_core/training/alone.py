"""One training at a time to a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from twinsight_core.errors import TrainingError


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Keeps other trainings from a folder of working files for as long as the block, or the process, lasts.

    Args:
        work: created if it does not exist; deleted if nothing is in it at the end.

    Raises:
        TrainingError: another training is under way.
        OSError: it can't be created.
    """
    work.mkdir(0o700, parents=True, exist_ok=True)
    descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"{work} is in use by another training to the same --out. Wait for it, or train to another folder.",
                reason="RUN_IN_PROGRESS",
            ) from None
        except OSError:
            pass  # some network file systems lock no folders
        yield
    finally:
        with suppress(OSError):
            work.rmdir()
        os.close(descriptor)
