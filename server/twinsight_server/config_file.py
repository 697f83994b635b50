"""Reads settings from a TOML file, and checks their names and types."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from twinsight_server.config import ServerConfig

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}

Setting = str | int | float | bool


def read_settings(path: Path) -> dict[str, Setting]:
    """Returns the settings of a file by the names of `ServerConfig`'s fields.

    Raises:
        ValueError: it can't be read, is not TOML, names an unknown setting, or has a value of the wrong type.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: can't be read as TOML: {error}") from error
    hints = get_type_hints(ServerConfig)
    if unknown := sorted(set(values) - set(hints)):
        raise ValueError(f"{path}: unknown settings: {', '.join(unknown)}. `serve --help` lists all settings.")
    for name, value in values.items():
        kinds = _kinds(hints[name])
        # Not isinstance: it accepts true as an integer.
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            raise ValueError(f"{path}: `{name}` (={value!r}) must be {' or '.join(_NAMES[kind] for kind in kinds)}.")
        words = _words(hints[name])
        if isinstance(value, str) and words and value not in words:
            raise ValueError(f"{path}: `{name}` (={value!r}) must be {_any_of(kinds, words)}.")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{path}: `{name}` must not contain a null character.")
        if value == "" and Path in {hints[name], *get_args(hints[name])}:
            raise ValueError(f"{path}: `{name}` is empty; the current folder is `.`.")
    return values


def _words(hint: object) -> tuple[str, ...]:
    """Returns the words that a text field may be; empty: any text."""
    return tuple(str(word) for one in (hint, *get_args(hint)) if get_origin(one) is Literal for word in get_args(one))


def _any_of(kinds: list[type], words: tuple[str, ...]) -> str:
    numbers = [_NAMES[kind] for kind in kinds if kind is not str]
    return " or ".join([*numbers, *(f"`{word}`" for word in words)])


def _kinds(hint: object) -> list[type]:
    """Returns the types that a field's value may have in TOML."""
    members = get_args(hint) if get_origin(hint) is not Literal and get_args(hint) else (hint,)
    kinds = [str if one is Path or get_origin(one) is Literal else one for one in members if one is not type(None)]
    return [kind for kind in kinds if isinstance(kind, type)]
