"""The options that name a server's data folder, and the keys of what is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")


def data_dir_option(about: str = "The server's data folder.") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator that gives a command `--data-dir`, which `TWINSIGHT_DATA_DIR` stands for."""
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        required=True,
        envvar="TWINSIGHT_DATA_DIR",
        show_envvar=True,
        help=about,
    )


def keyring_option(
    about: str = "File of the keys, made by `twinsight keyring`; or env:NAME, the variable that has its content.",
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Returns a decorator that gives a command `--keyring`, which `TWINSIGHT_KEYRING` stands for."""
    return click.option(
        "--keyring",
        required=True,
        metavar="FILE",
        envvar="TWINSIGHT_KEYRING",
        show_envvar=True,
        help=about,
    )
