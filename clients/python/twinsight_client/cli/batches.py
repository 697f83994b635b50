"""Any number of files in calls that each take a limited number: cut, asked one after another, put together again.

A file that can't travel at all is answered here, as the server would have: it fails alone. Where a call fails as a
whole, or Ctrl-C comes, what was answered until then is kept.
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
from twinsight_client.images import size_bytes
from twinsight_client.results import ItemError, ModelReference, ModelResults
from twinsight_client.status import is_too_large
from twinsight_client.streams import BATCH_BYTES

BATCH_SIZE = 32
"""Pictures in one call: the largest batch that a server computes at once unless it is configured otherwise."""
MAX_FILE_BYTES = 60 * 1024 * 1024
"""What fits a message of 64 MiB; servers take less, but say so themselves."""
TOO_LARGE = "FILE_TOO_LARGE"
UNREADABLE = "FILE_UNREADABLE"
INTERRUPTED = "INTERRUPTED"

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Answered(Generic[T]):
    """What became of files.

    Attributes:
        model: what answered.
        answers: each file with its answer, in the order given.
        ended: what ended the asking early; None: it came to its end.
        unanswered: places of the files that were left without an answer then; their errors tell what ended it.
    """

    model: ModelReference
    answers: tuple[tuple[Path, T | ItemError], ...]
    ended: TwinsightClientError | KeyboardInterrupt | OSError | None = None
    unanswered: frozenset[int] = frozenset()

    def successes(self) -> list[tuple[Path, T]]:
        """The files that have an answer, with it."""
        return [(file, answer) for file, answer in self.answers if not isinstance(answer, ItemError)]

    def write_errors(self) -> None:
        """Lists the files that have none, on standard error; those that were never dealt with only as a number."""
        for file, answer in self.answers:
            if isinstance(answer, ItemError) and answer.index not in self.unanswered:
                write_error(f"skipped {file}: {answer.message} [{answer.reason or answer.code}]")
        if self.unanswered:
            write_error(f"Not finished: {len(self.unanswered)} of {len(self.answers)} files have no answer.")

    def raise_ended(self) -> None:
        """Raises what ended the asking early, once what there is was printed; returns where nothing did."""
        if self.ended is not None:
            raise self.ended


@dataclass(frozen=True)
class Sized:
    """A file that can travel.

    Attributes:
        index: its place in what the user gave, from 0.
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
    """Returns the answers to all files, or to those asked about before a call failed or Ctrl-C came.

    Args:
        files: pictures.
        ask: makes one call, with the files' bytes.
        known: errors of files that need not be looked at, by their places.
        arrived: told the answers as they come, by the files' places: those of a call, then of the next; each once, the
            files left without an answer among them. What it raises ends the asking as what a call raises does.

    Raises:
        TwinsightClientError: the first call failed: there is nothing to keep.
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
        untold |= {index: _left(index, error) for index in left}
    answers |= untold
    arrived(untold)
    return Answered(model, tuple((file, answers[index]) for index, file in enumerate(files)), ended, frozenset(left))


def sort_out(
    files: Sequence[Path], known: Mapping[int, ItemError] | None = None
) -> tuple[list[Sized], dict[int, ItemError]]:
    """Returns the files that can travel, and for the others the error that each of them gets, by its place.

    Args:
        files: any.
        known: errors of files that need not be looked at.
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
    """Returns the answers to `files` by their places in what the user gave."""
    return {
        one.index: replace(answer, index=one.index) if isinstance(answer, ItemError) else answer
        for one, answer in zip(files, answers, strict=True)
    }


def too_large(size: int, *, most: int = MAX_FILE_BYTES) -> str:
    """Returns what is wrong with a file of `size` bytes; empty where it can travel."""
    return f"The file ({size} bytes) is over {most} bytes." if size > most else ""


def cut(things: Iterable[S], *, size_of: Callable[[S], int], most: int) -> Iterator[list[S]]:
    """Cuts things into batches, each small enough to be one message.

    Args:
        things: in the order in which they are to be sent; each by itself fits a message.
        size_of: bytes that one takes.
        most: things in a batch.
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
    """Asks about things; where the server's messages are smaller than the client's, in ever smaller messages.

    Args:
        things: what one message of the client's holds.
        ask: makes one call.

    Yields:
        Each part with its answer, in the order given; a single thing that is too large for the server with the error
        that says so.

    Raises:
        TwinsightClientError: a call failed otherwise.
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
    """Returns the files of a batch with their bytes, and the errors of those that can't be read after all."""
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
    """Raises FailedPrecondition where the server was started again with another model: answers are never mixed."""
    if model.digest and answered_by.digest and answered_by != model:
        raise FailedPrecondition(
            f"Model `{model.name}` ({model.digest}) answered at first, and now `{answered_by.name}` "
            f"({answered_by.digest}).",
            reason="MODEL_MISMATCH",
        )


def _left(index: int, ended: TwinsightClientError | KeyboardInterrupt | OSError) -> ItemError:
    """Returns the error of a file that nobody was asked about any more."""
    if isinstance(ended, KeyboardInterrupt):
        return ItemError(index, Cancelled.code, INTERRUPTED, "It was interrupted before this file was answered.")
    if isinstance(ended, OSError):
        return ItemError(index, Cancelled.code, INTERRUPTED, f"It ended before this file was answered: {ended}")
    return ItemError(index, ended.code, ended.reason, ended.message)


def _ask(
    batch: Sequence[tuple[Sized, bytes]], ask: Callable[[Sequence[bytes]], ModelResults[T]]
) -> tuple[ModelReference, list[T | ItemError]]:
    """Asks about a batch, in one message or several; returns what answered last, and the answers."""
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
