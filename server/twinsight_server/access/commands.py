"""`twinsight keys`: make, list and revoke API keys in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from twinsight_core.commands.output import write_line
from twinsight_core.errors import StartupError
from twinsight_server.access.keys import ApiKey, changing, check_name, digest, new_key, read_keys
from twinsight_server.access.principals import MOST, RIGHTS, Grant, Share

_file = click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    envvar="TWINSIGHT_API_KEYS",
    show_envvar=True,
    help="The file of keys; `serve --api-keys` reads it, and reads it again when it changes.",
)


@click.group(
    help="""Make, list and revoke API keys. The file holds their digests alone; a running server sees changes at once.

    \b
    Examples:
      twinsight keys new --name phone --rights read,write --collections 'photos*' --file keys.json
      twinsight keys list --file keys.json
      twinsight keys revoke --name phone --file keys.json
    """,
)
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@_file
@click.option("--name", required=True, help="What it is called in logs.")
@click.option(
    "--rights", required=True, help="Some of search, read, write and admin, with commas between; read has search in it."
)
@click.option(
    "--collections",
    default="",
    help="Ids of collections, with commas between; * and ? stand for others. None: only the models.",
)
@click.option("--days", type=click.IntRange(min=1, max=36_500), help="Days after which it is refused.")
@click.option("--calls-per-s", type=click.FloatRange(min=0, max=MOST), help="Its rate of calls; 0: no limit.")
@click.option(
    "--items-per-s", type=click.FloatRange(min=0, max=MOST), help="Its rate of pictures, queries, items and ids."
)
@click.option("--max-calls", type=click.IntRange(min=0, max=MOST), help="Calls that it may have in work at once.")
@click.option("--max-streams", type=click.IntRange(min=0, max=MOST), help="Streams that it may have open at once.")
@click.option(
    "--max-collections",
    type=click.IntRange(min=0, max=MOST),
    help="Collections there may be of those that it may `admin`.",
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
    """Make a key, and print it: this once, since the file keeps only its digest."""
    key, now = new_key(), datetime.now(UTC)
    with _told(path):
        check_name(name)
        named = set(_split(rights))
        grant = Grant(frozenset(one for one in RIGHTS if one in named), _split(collections))
        if len(grant.rights) != len(named):
            raise ValueError(f"`rights` (={rights}) must be some of {', '.join(RIGHTS)}.")
        with changing(path) as known:
            if name in known:
                raise ValueError(f"There is a key `{name}` already.")
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
    """List the keys: names, rights and times."""
    with _told(path):
        known = read_keys(path.read_bytes(), path=path)
    for name, one in known.items():
        grants = "; ".join(
            f"{','.join(sorted(grant.rights))} on {','.join(grant.collections) or 'models'}" for grant in one.grants
        )
        expires = f", until {one.expires:%Y-%m-%d}" if one.expires else ""
        write_line(f"{name}: {grants}; made {one.created:%Y-%m-%d}{expires}")


@keys.command()
@_file
@click.option("--name", required=True, help="Of the key.")
def revoke(path: Path, name: str) -> None:
    """Remove a key: it is refused from the next second on, in open streams, too."""
    with _told(path), changing(path) as known:
        if known.pop(name, None) is None:
            raise ValueError(f"There is no key `{name}`.")


def _split(words: str) -> tuple[str, ...]:
    return tuple(word for word in (one.strip() for one in words.split(",")) if word)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what can be wrong with the file of keys into one line."""
    try:
        yield
    except StartupError as error:
        message = error.message
    except OSError as error:
        # A write that fails names no file.
        message = f"{error.filename or path}: {error.strerror or error}"
    except ValueError as error:
        message = str(error)
    else:
        return
    write_line(f"twinsight: {message}", err=True)
    sys.exit(1)
