"""What commands print: lines that are lines, and no terminal's commands, whatever packages, data and files say."""

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
    """Returns a text as one line for a terminal or a log: what is not printable as escapes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


def set_in(text: str) -> str:
    """Returns lines, printable and set in, so that none can be taken for one that stands by itself."""
    return "\n".join(f"  {printable(line)}" for line in text.split("\n"))


class LineFormatter(logging.Formatter):
    """Makes one printable line of each record; a traceback is set in below it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Returns the line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        """Returns the traceback."""
        return set_in(super().formatException(ei))
