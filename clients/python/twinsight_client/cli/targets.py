"""Addresses as options."""

from __future__ import annotations

import re

import click
from click.types import StringParamType

_SCHEME = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|vsock|xds):")
"""Of gRPC's name resolvers: https://github.com/grpc/grpc/blob/master/doc/naming.md."""


class Target(StringParamType):
    """HOST:PORT, or what else gRPC resolves: it takes port 443 where there is none, and one above 65535 for another."""

    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns the address; fails if it has no port."""
        target = super().convert(value, param, ctx)
        _, _, port = target.rpartition(":")
        if not _SCHEME.match(target) and not re.fullmatch(r"[^/]+:[0-9]{1,5}", target):
            self.fail(f"`{target}` must be HOST:PORT.", param, ctx)
        if port.isdecimal() and not 1 <= int(port) <= 65535:
            self.fail(f"the port of `{target}` must be 1 to 65535.", param, ctx)
        return target
