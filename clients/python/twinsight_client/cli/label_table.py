"""Labels as a CSV file for spreadsheets and databases: one row per label of each picture."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from twinsight_client.results import ItemError, Label

COLUMNS = ("file", "rank", "label", "probability", "error")


class LabelTable:
    """A CSV file, written as results arrive.

    A picture without a label, or with an error, also gets one row. The file is created when there is something to
    write: if the first call fails, an existing file is left as it is.

    Args:
        out: the file; None: nothing is written.
    """

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, answers: Iterable[tuple[Path, list[Label] | ItemError]]) -> None:
        """Writes the rows of some pictures; returns when they are in the file."""
        if self._out is None:
            return
        if self._file is None:
            # File names that are not valid UTF-8 are written as the bytes they have on disk.
            self._file = self._out.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            csv.writer(self._file).writerow(COLUMNS)
        csv.writer(self._file).writerows(row for file, answer in answers for row in _rows(file, answer))
        self._file.flush()


def _rows(file: Path, answer: list[Label] | ItemError) -> list[tuple[object, ...]]:
    if isinstance(answer, ItemError):
        return [(file, "", "", "", answer.reason or answer.code)]
    return [(file, rank, one.label, one.probability, "") for rank, one in enumerate(answer, 1)] or [(file, *[""] * 4)]
