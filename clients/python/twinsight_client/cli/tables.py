"""Tables on standard output. Apart from `output`, since importing rich takes most of a command's start."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from twinsight_client.cli.output import printable

WIDE = 100_000
"""Columns of an output that is not a terminal: nothing is wrapped on its way to a file or program."""


def write_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table to standard output. A column whose name ends in a space is right-aligned, for numbers."""
    console = _console()
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name.strip(), justify="right" if name.endswith(" ") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _print(console, table)


def write_fields(fields: Mapping[str, object]) -> None:
    """Prints names and values to standard output, one pair per line."""
    console = _console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(Text(printable(name)), Text(printable(value)))
    _print(console, table)


def _print(console: Console, table: Table) -> None:
    with console.capture() as captured:
        console.print(table)
    # Cells are padded to their column's width, even in the last column.
    text = "\n".join(line.rstrip() for line in captured.get().splitlines())
    encoding = sys.stdout.encoding
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def _console() -> Console:
    # A fresh console each time: tests and pipes replace sys.stdout.
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDE, highlight=False)
