"""The option that names a server's data folder."""

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
