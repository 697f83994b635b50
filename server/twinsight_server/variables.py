"""Finds environment variables that look like settings but are not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields

from twinsight_server.config import ServerConfig

PREFIX = "TWINSIGHT_"
CONFIG = f"{PREFIX}CONFIG"


def variable_of(setting: str) -> str:
    """Returns the name of a setting's environment variable."""
    return PREFIX + setting.upper()


SETTINGS = frozenset({CONFIG, *(variable_of(field.name) for field in fields(ServerConfig))})
OF_OTHERS = frozenset(f"{PREFIX}{name}" for name in ("COMMIT", "TARGET", "TIMEOUT", "TLS_CA", "TOKEN", "TOKEN_FILE"))
"""What the client's commands and the benchmarks read: in a container, its health check shares the environment."""


def unknown_variables(environment: Iterable[str], *, known: Iterable[str] = ()) -> Mapping[str, str]:
    """Returns the `TWINSIGHT_...` variables that nothing reads, each with the closest setting's variable or "".

    Kubernetes sets variables for each service in a container's namespace (`NAME_SERVICE_HOST`, `NAME_PORT`, ...), and
    their names may have the same prefix; these are skipped.

    Args:
        environment: names of all variables.
        known: other names that are read.
    """
    names = sorted(name for name in environment if name.startswith(PREFIX))
    services = [name.removesuffix("SERVICE_HOST") for name in names if name.endswith("_SERVICE_HOST")]
    of_services = tuple(service + what for service in services for what in ("PORT", "SERVICE_"))
    read = SETTINGS | OF_OTHERS | set(known)
    return {name: _like(name) for name in names if name not in read and not name.startswith(of_services)}


def _like(name: str) -> str:
    ends = [one.removeprefix(PREFIX) for one in sorted(SETTINGS)]
    found = difflib.get_close_matches(name.removeprefix(PREFIX), ends, n=1)
    return PREFIX + found[0] if found else ""
