"""Output of commands: one JSON document on standard output, errors on standard error."""

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


def write_json(document: object) -> None:
    """Prints one JSON document to standard output; on a terminal, escapes unprintable characters."""
    readable = json.dumps(plain(document), indent=2, ensure_ascii=False)
    try:
        readable.encode(sys.stdout.encoding)
    except UnicodeEncodeError:  # a file name that is not UTF-8, or an output encoding smaller than UTF-8
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


def write_error(message: str) -> None:
    """Prints one line to standard error."""
    click.echo(printable(message), err=True)


def printable(value: object) -> str:
    """Returns `value` as text for a terminal: None as an empty string, unprintable characters escaped."""
    text = "" if value is None else str(value)
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


def percent(share: float | None) -> str:
    """Returns a probability in percent; empty if there is none."""
    return "" if share is None else f"{share:.1%}"


def check_writable(out: Path) -> None:
    """Raises OSError if a file can't be written: before the work, not after it."""
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(out))
    if not os.access(out if out.exists() else out.absolute().parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(out))
