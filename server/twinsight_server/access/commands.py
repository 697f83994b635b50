"""`twinsight keys`: create, list and revoke API keys in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from twinsight_core.commands.output import write_line
from twinsight_core.commands.paths import PathType
from twinsight_core.errors import StartupError
from twinsight_server.access.keys import ApiKey, changing, check_name, digest, new_key, read_keys
from twinsight_server.access.principals import MOST, RIGHTS, Grant, Share

_file = click.option(
    "--file",
    "path",
    type=PathType(dir_okay=False),
    required=True,
    envvar="TWINSIGHT_API_KEYS",
    show_envvar=True,
    help="File of the keys; `serve --api-keys` reads it, and reloads it when it changes.",
)


@click.group(
    help="""Create, list and revoke API keys. The file holds only digests; a running server applies changes at once.

    \b
    Examples:
      twinsight keys new --name phone --rights read,write --collections 'photos*' --file keys.json
      twinsight keys list --file keys.json
      twinsight keys revoke --name phone --file keys.json
    """,
)
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command()
@_file
@click.option("--name", required=True, help="Name of the key, shown in logs.")
@click.option(
    "--rights", required=True, help="Comma-separated rights: search, read, write, admin; read includes search."
)
@click.option(
    "--collections",
    default="",
    help="Comma-separated collection ids; * and ? are wildcards. Empty: only the models.",
)
@click.option("--days", type=click.IntRange(min=1, max=36_500), help="Days until it expires.")
@click.option("--calls-per-s", type=click.FloatRange(min=0, max=MOST), help="Calls per second; 0: no limit.")
@click.option(
    "--items-per-s",
    type=click.FloatRange(min=0, max=MOST),
    help="Images, queries, items and ids per second; 0: no limit.",
)
@click.option("--max-calls", type=click.IntRange(min=0, max=MOST), help="Concurrent calls; 0: no limit.")
@click.option("--max-streams", type=click.IntRange(min=0, max=MOST), help="Open streams; 0: no limit.")
@click.option(
    "--max-collections",
    type=click.IntRange(min=0, max=MOST),
    help="Collections it may `admin` before it can't create another; 0: no limit.",
)
def new(
    *,
    path: Path,
    name: str,
    rights: str,
    collections: str,
    days: int | None,
    calls_per_s: float | None,
    items_per_s: float | None,
    max_calls: int | None,
    max_streams: int | None,
    max_collections: int | None,
) -> None:
    """Create a key and print it; the file keeps only its digest, so it can't be printed again."""
    key, now = new_key(), datetime.now(UTC)
    with _exit_on_failure(path):
        check_name(name)
        named = set(_split(rights))
        grant = Grant(frozenset(one for one in RIGHTS if one in named), _split(collections))
        if len(grant.rights) != len(named):
            raise ValueError(f"`rights` (={rights}) must be some of {', '.join(RIGHTS)}.")
        with changing(path) as known:
            if name in known:
                raise ValueError(f"Key `{name}` exists already.")
            known[name] = ApiKey(
                sha256=digest(key),
                created=now,
                grants=(grant,),
                expires=now + timedelta(days=days) if days else None,
                share=Share(calls_per_s, items_per_s, max_calls, max_streams, max_collections),
            )
    write_line(key)


@keys.command("list")
@_file
def list_(path: Path) -> None:
    """List the keys with their rights and dates."""
    with _exit_on_failure(path):
        known = read_keys(path.read_bytes(), path=path)
    for name, one in known.items():
        grants = "; ".join(
            f"{','.join(sorted(grant.rights))} on {','.join(grant.collections) or 'models'}" for grant in one.grants
        )
        expires = f", until {one.expires:%Y-%m-%d}" if one.expires else ""
        write_line(f"{name}: {grants}; made {one.created:%Y-%m-%d}{expires}")


@keys.command()
@_file
@click.option("--name", required=True, help="Name of the key.")
def revoke(path: Path, name: str) -> None:
    """Revoke a key; within a second a running server rejects it, in open streams too."""
    with _exit_on_failure(path), changing(path) as known:
        if known.pop(name, None) is None:
            raise ValueError(f"Key `{name}` does not exist.")


def _split(words: str) -> tuple[str, ...]:
    return tuple(word for word in (one.strip() for one in words.split(",")) if word)


@contextmanager
def _exit_on_failure(path: Path) -> Iterator[None]:
    """Turns errors of the file of keys into one line on standard error and exit code 1."""
    try:
        yield
    except StartupError as error:
        message = error.message
    except OSError as error:
        # The error of a failed write names no file.
        message = f"{error.filename or path}: {error.strerror or error}"
    except ValueError as error:
        message = str(error)
    else:
        return
    write_line(f"twinsight: {message}", err=True)
    sys.exit(1)
