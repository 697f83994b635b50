"""The options for a server's data folder, its collections and keys, and for a package to write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from twinsight_core.commands.paths import PathType

P = ParamSpec("P")
R = TypeVar("R")


def data_dir_option(about: str = "The server's data folder.") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator that adds `--data-dir` to a command, which `TWINSIGHT_DATA_DIR` sets too."""
    return click.option(
        "--data-dir",
        type=PathType(file_okay=False),
        required=True,
        envvar="TWINSIGHT_DATA_DIR",
        show_envvar=True,
        help=about,
    )


def collection_options(command: Callable[P, R]) -> Callable[P, R]:
    """Gives a command `--collection` and `--exclude`, as `only` and `exclude`: ids of collections or patterns."""
    for option in (
        click.option("--exclude", multiple=True, metavar="PATTERN", help="Skip what matches; may be repeated."),
        click.option(
            "--collection",
            "-c",
            "only",
            multiple=True,
            metavar="PATTERN",
            help="Only collections that match: an id with wildcards `*`, `?` and `[...]`; may be repeated.",
        ),
    ):
        command = option(command)
    return command


def package_option(about: str, *, required: bool = True) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator that adds `--out` to a command: the folder of a package to write, as an absolute path.

    A package is named after its folder, and its training files lie beside that; `.` has no name. Symbolic links are not
    resolved.
    """

    def absolute(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
        del context, parameter
        return None if value is None else Path(os.path.abspath(value))  # noqa: PTH100 - `resolve` follows links

    return click.option("--out", type=PathType(file_okay=False), required=required, callback=absolute, help=about)


def keyring_option(
    about: str = "Keyring file, made by `twinsight keyring`; or env:NAME, the variable with its content.",
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator that adds `--keyring` to a command, which `TWINSIGHT_KEYRING` sets too."""
    return click.option(
        "--keyring",
        required=True,
        metavar="FILE",
        envvar="TWINSIGHT_KEYRING",
        show_envvar=True,
        help=about,
    )
