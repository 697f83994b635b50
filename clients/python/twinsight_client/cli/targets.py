"""Addresses of servers."""

from __future__ import annotations

import re

import click

_SCHEME = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|vsock|xds):")
"""Of gRPC's name resolvers: https://github.com/grpc/grpc/blob/master/doc/naming.md."""
_ADDRESS = re.compile(r"(\[[^\]/]+\]|[^:/\s]+):([0-9]{1,5})")


def checked_target(target: str) -> str:
    """Returns an address if it is HOST:PORT, or of another form that gRPC resolves.

    gRPC takes port 443 where there is none, and another port for one above 65535.

    Raises:
        click.UsageError: it is not.
    """
    if _SCHEME.match(target):
        return target
    found = _ADDRESS.fullmatch(target)
    if not found or not 1 <= int(found[2]) <= 65535:
        raise click.UsageError(f"`{target}` (--target, TWINSIGHT_TARGET) must be HOST:PORT, with a PORT of 1 to 65535.")
    return target
