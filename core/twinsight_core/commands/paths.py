"""The type of options that name a file or folder."""

from __future__ import annotations

import os
from pathlib import Path

import click


class PathType(click.Path):
    """A path that is not empty, since `--out "$UNSET"` must not mean the current folder; a leading `~` is expanded.

    A shell expands `~` itself, but neither in variables of services and containers nor in settings' files.
    """

    def __init__(self, *, exists: bool = False, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Returns the path."""
        if not os.fspath(value):
            self.fail("is empty; the current folder is `.`.", param, ctx)
        return super().convert(os.path.expanduser(value), param, ctx)  # noqa: PTH111 - pathlib's fails without a home
