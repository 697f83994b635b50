"""How a command ends that can't do its work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from twinsight_core.errors import TwinsightError


@contextmanager
def exit_on_failure() -> Iterator[None]:
    """Ends the process with status 1 and a line on standard error where a TwinsightError or OSError is raised."""
    try:
        yield
    except TwinsightError as error:
        click.echo(f"twinsight: {error.message}", err=True)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"twinsight: {where}{error.strerror or error}", err=True)
        sys.exit(1)
