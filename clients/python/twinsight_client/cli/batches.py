"""Sends any number of files in calls of limited size, one after another, and joins the results.

A file that can't be sent at all fails alone, with an error like the server's. If a call fails as a whole, or on Ctrl-C,
the results so far are kept.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from twinsight_client.cli.output import write_error
from twinsight_client.errors import (
    Cancelled,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    TwinsightClientError,
)
from twinsight_client.images import UNREADABLE, size_bytes
from twinsight_client.results import ItemError, ModelReference, ModelResults
from twinsight_client.status import is_too_large
from twinsight_client.streams import BATCH_BYTES

BATCH_SIZE = 32
"""Pictures per call: the largest batch that a server computes at once by default."""
MAX_FILE_BYTES = 60 * 1024 * 1024
"""Fits a message of 64 MiB; servers accept less, and say so themselves."""
TOO_LARGE = "FILE_TOO_LARGE"
INTERRUPTED = "INTERRUPTED"

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Answered(Generic[T]):
    """Results for files.

    Attributes:
        model: the model that answered.
        answers: each file with its result, in the order given.
        ended: what ended the run early; None if it finished.
        unanswered: positions of the files without a result then; their errors say what ended the run.
    """

    model: ModelReference
    answers: tuple[tuple[Path, T | ItemError], ...]
    ended: TwinsightClientError | KeyboardInterrupt | OSError | None = None
    unanswered: frozenset[int] = frozenset()

    def successes(self) -> list[tuple[Path, T]]:
        """Returns the files that have a result, with it."""
        return [(file, answer) for file, answer in self.answers if not isinstance(answer, ItemError)]

    def write_errors(self) -> None:
        """Lists the failed files on standard error; of those without a result when the run ended, only the number."""
        for file, answer in self.answers:
            if isinstance(answer, ItemError) and answer.index not in self.unanswered:
                write_error(f"skipped {file}: {answer.message} [{answer.reason or answer.code}]")
        if self.unanswered:
            write_error(f"Not finished: {len(self.unanswered)} of {len(self.answers)} files have no result.")

    def raise_ended(self) -> None:
        """Raises what ended the run early, for callers that have printed the results; returns if it finished."""
        if self.ended is not None:
            raise self.ended


@dataclass(frozen=True)
class Sized:
    """A file that can be sent.

    Attributes:
        index: its position in the user's list, from 0.
        file: its path.
        size: bytes.
    """

    index: int
    file: Path
    size: int


def ask_in_batches(
    files: Sequence[Path],
    ask: Callable[[Sequence[bytes]], ModelResults[T]],
    *,
    known: Mapping[int, ItemError] | None = None,
    arrived: Callable[[Mapping[int, T | ItemError]], None] = lambda _answers: None,
) -> Answered[T]:
    """Returns the results of all files, or of those that arrived before a call failed or Ctrl-C was pressed.

    Args:
        files: pictures.
        ask: makes one call, with the files' bytes.
        known: errors of files that need not be read, by position.
        arrived: called with the results of each call as they arrive, by the files' positions: each result once,
            including the errors of files left without a result. An exception that it raises ends the run like one
            that a call raises.

    Raises:
        TwinsightClientError: the first call failed, so there is nothing to keep.
        KeyboardInterrupt: likewise.
    """
    sendable, refused = sort_out(files, known)
    model = ModelReference()
    answers: dict[int, T | ItemError] = {}
    untold: dict[int, T | ItemError] = {**refused}
    left: list[int] = []
    ended: TwinsightClientError | KeyboardInterrupt | OSError | None = None
    try:
        for batch in cut(sendable, size_of=lambda one: one.size, most=BATCH_SIZE):
            read, unread = _read(batch)
            answered_by, found = _ask(read, ask)
            _check_same(model, answered_by)
            model = answered_by if answered_by.digest else model
            untold |= unread | placed([one for one, _ in read], found)
            answers |= untold
            told, untold = untold, {}
            arrived(told)
    except (TwinsightClientError, KeyboardInterrupt, OSError) as error:
        if not answers:
            raise
        ended = error
        left = [index for index in range(len(files)) if index not in answers and index not in untold]
        untold |= {index: _unanswered_error(index, error) for index in left}
    answers |= untold
    arrived(untold)
    return Answered(model, tuple((file, answers[index]) for index, file in enumerate(files)), ended, frozenset(left))


def sort_out(
    files: Sequence[Path], known: Mapping[int, ItemError] | None = None
) -> tuple[list[Sized], dict[int, ItemError]]:
    """Returns the files that can be sent, and the errors of the others by position.

    Args:
        files: any.
        known: errors of files that need not be read, by position.
    """
    sendable: list[Sized] = []
    refused: dict[int, ItemError] = {**(known or {})}
    for index, file in enumerate(files):
        if index in refused:
            continue
        try:
            size = size_bytes(file)
            if not os.access(file, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            refused[index] = _unreadable(index, error)
            continue
        if said := too_large(size):
            refused[index] = ItemError(index, InvalidArgument.code, TOO_LARGE, said)
        else:
            sendable.append(Sized(index, file, size))
    return sendable, refused


def placed(files: Iterable[Sized], answers: Iterable[T | ItemError]) -> dict[int, T | ItemError]:
    """Returns the results of `files` by their positions in the user's list."""
    return {
        one.index: replace(answer, index=one.index) if isinstance(answer, ItemError) else answer
        for one, answer in zip(files, answers, strict=True)
    }


def too_large(size: int, *, most: int = MAX_FILE_BYTES) -> str:
    """Returns what is wrong with a file of `size` bytes; empty if it can be sent."""
    return f"The file ({size} bytes) is larger than {most} bytes." if size > most else ""


def cut(things: Iterable[S], *, size_of: Callable[[S], int], most: int) -> Iterator[list[S]]:
    """Splits things into batches, each small enough for one message.

    Args:
        things: in the order in which to send them; each by itself fits a message.
        size_of: returns the bytes that one takes.
        most: most things in a batch.
    """
    batch: list[S] = []
    size = 0
    for thing in things:
        more = size_of(thing)
        if batch and (len(batch) == most or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(thing)
        size += more
    if batch:
        yield batch


def ask_in_parts(
    things: Sequence[S], ask: Callable[[Sequence[S]], R]
) -> Iterator[tuple[Sequence[S], R | ResourceExhausted]]:
    """Sends things, halving the message as long as the server rejects it as too large.

    Args:
        things: at most what one message of the client's holds.
        ask: makes one call.

    Yields:
        Each part with its result, in the order given; for a single thing that is too large for the server, the error.

    Raises:
        TwinsightClientError: a call failed for another reason.
    """
    if not things:
        return
    try:
        answer = ask(things)
    except ResourceExhausted as error:
        if not is_too_large(error):
            raise
        if len(things) == 1:
            yield things, error
            return
    else:
        yield things, answer
        return
    middle = len(things) // 2
    yield from ask_in_parts(things[:middle], ask)
    yield from ask_in_parts(things[middle:], ask)


def _read(batch: Iterable[Sized]) -> tuple[list[tuple[Sized, bytes]], dict[int, ItemError]]:
    """Returns the files of a batch with their bytes, and the errors of those that can't be read."""
    read: list[tuple[Sized, bytes]] = []
    unread: dict[int, ItemError] = {}
    for one in batch:
        try:
            read.append((one, one.file.read_bytes()))
        except OSError as error:
            unread[one.index] = _unreadable(one.index, error)
    return read, unread


def _unreadable(index: int, error: OSError) -> ItemError:
    return ItemError(index, InvalidArgument.code, UNREADABLE, error.strerror or str(error))


def _check_same(model: ModelReference, answered_by: ModelReference) -> None:
    """Raises FailedPrecondition if the server was restarted with another model: results are never mixed."""
    if model.digest and answered_by.digest and answered_by != model:
        raise FailedPrecondition(
            f"The server changed from model `{model.name}` ({model.digest}) to `{answered_by.name}` "
            f"({answered_by.digest}) during the run.",
            reason="MODEL_MISMATCH",
        )


def _unanswered_error(index: int, ended: TwinsightClientError | KeyboardInterrupt | OSError) -> ItemError:
    """Returns the error of a file whose result had not arrived when the run ended."""
    if isinstance(ended, KeyboardInterrupt):
        return ItemError(index, Cancelled.code, INTERRUPTED, "Interrupted before the result of this file arrived.")
    if isinstance(ended, OSError):
        return ItemError(index, Cancelled.code, INTERRUPTED, f"Ended before the result of this file arrived: {ended}")
    return ItemError(index, ended.code, ended.reason, ended.message)


def _ask(
    batch: Sequence[tuple[Sized, bytes]], ask: Callable[[Sequence[bytes]], ModelResults[T]]
) -> tuple[ModelReference, list[T | ItemError]]:
    """Sends a batch, in one message or several; returns the model that answered last, and the results."""
    model = ModelReference()
    answers: list[T | ItemError] = []
    for part, results in ask_in_parts(batch, lambda files: ask([encoded for _, encoded in files])):
        if isinstance(results, ResourceExhausted):
            answers.append(ItemError(part[0][0].index, results.code, TOO_LARGE, results.message))
        else:
            answers.extend(results)
            if results.model.digest:
                model = results.model
    return model, answers
