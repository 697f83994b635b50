"""What commands print: one line each without control characters, whatever packages, data and files contain."""

from __future__ import annotations

import json
import logging
from types import TracebackType

import click

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def write_line(text: str, *, err: bool = False) -> None:
    """Prints one line to standard output, or to standard error."""
    click.echo(printable(text), err=err)


def write_json(document: object) -> None:
    """Prints one JSON document, in ASCII, to standard output."""
    click.echo(json.dumps(document, indent=2))


def printable(text: str) -> str:
    """Returns a text as one line for a terminal or a log, with unprintable characters escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


def set_in(text: str) -> str:
    """Returns lines printable and indented, so that none can be mistaken for a line of its own."""
    return "\n".join(f"  {printable(line)}" for line in text.split("\n"))


class LineFormatter(logging.Formatter):
    """Formats each record as one printable line, with its traceback indented below."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Returns the line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        """Returns the traceback."""
        return set_in(super().formatException(ei))
