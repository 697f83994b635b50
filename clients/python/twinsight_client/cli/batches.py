"""Any number of files in calls that each take a limited number: cut, asked one after another, put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from twinsight_client.cli.output import write_error
from twinsight_client.images import size_bytes
from twinsight_client.results import ItemError, ModelReference, ModelResults
from twinsight_client.streams import BATCH_BYTES

BATCH_SIZE = 32
"""Pictures in one call: the largest batch that a server computes at once unless it is configured otherwise."""

T = TypeVar("T")


@dataclass(frozen=True)
class Answered(Generic[T]):
    """What became of files.

    Attributes:
        model: what answered.
        answers: each file with its answer, in the order given.
    """

    model: ModelReference
    answers: tuple[tuple[Path, T | ItemError], ...]

    def successes(self) -> list[tuple[Path, T]]:
        """The files that have an answer, with it."""
        return [(file, answer) for file, answer in self.answers if not isinstance(answer, ItemError)]

    def write_errors(self) -> None:
        """Lists the files that have none, on standard error."""
        for file, answer in self.answers:
            if isinstance(answer, ItemError):
                write_error(f"skipped {file}: {answer.message} [{answer.reason or answer.code}]")


def ask_in_batches(files: Sequence[Path], ask: Callable[[Sequence[Path]], ModelResults[T]]) -> Answered[T]:
    """Returns the answers to all files.

    Args:
        files: pictures, at least one.
        ask: makes one call.
    """
    model = ModelReference()
    answers: list[tuple[Path, T | ItemError]] = []
    for batch in _batches(files):
        results = ask(batch)
        model = results.model
        for file, answer in zip(batch, results, strict=True):
            answers.append((file, replace(answer, index=len(answers)) if isinstance(answer, ItemError) else answer))
    return Answered(model, tuple(answers))


def _batches(files: Sequence[Path]) -> Iterator[Sequence[Path]]:
    batch: list[Path] = []
    size = 0
    for file in files:
        more = size_bytes(file)
        if len(batch) == BATCH_SIZE or (batch and size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += more
    yield batch
