"""Tables for people, one JSON document for machines; errors and progress on standard error."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 100_000
"""Columns of an output that is no terminal: nothing is folded on its way to a file or another program."""


def write_json(document: object) -> None:
    """Prints one JSON document to standard output; to a terminal with escapes for what is not printable."""
    readable = json.dumps(plain(document), indent=2, ensure_ascii=False)
    try:
        readable.encode(sys.stdout.encoding)
    except UnicodeEncodeError:  # a file's name that is no text, or an output that takes less than UTF-8
        readable = json.dumps(plain(document), indent=2)
    if sys.stdout.isatty():
        readable = "".join(one if one.isprintable() or one == "\n" else _json_escape(one) for one in readable)
    click.echo(readable)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[start : start + 2].hex()}" for start in range(0, len(units), 2))


def plain(value: object) -> object:
    """Returns `value` in JSON's own types: records become objects, arrays lists, times ISO 8601."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(one) for one in value]
    return value


def write_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table to standard output. A column whose name ends in a space is of numbers, and stands to the right."""
    console = _console()
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name.strip(), justify="right" if name.endswith(" ") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _print(console, table)


def write_fields(fields: Mapping[str, object]) -> None:
    """Prints names and values to standard output, one a line."""
    console = _console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(Text(printable(name)), Text(printable(value)))
    _print(console, table)


def write_error(message: str) -> None:
    """Prints one line to standard error."""
    click.echo(printable(message), err=True)


def printable(value: object) -> str:
    """Returns `value` for a terminal: None as nothing, control characters as escapes."""
    text = "" if value is None else str(value)
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


def percent(share: float | None) -> str:
    """Returns a probability as a person reads it; empty where there is none."""
    return "" if share is None else f"{share:.1%}"


def _print(console: Console, table: Table) -> None:
    with console.capture() as captured:
        console.print(table)
    # Cells are filled up to their column's width, the last ones too.
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    encoding = sys.stdout.encoding
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def _console() -> Console:
    # A fresh console each time: tests and pipes replace sys.stdout.
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDE, highlight=False)


def check_writable(out: Path) -> None:
    """Raises OSError where a file could not be written in the end: before the work, not after it."""
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(out))
    if not os.access(out if out.exists() else out.absolute().parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(out))
