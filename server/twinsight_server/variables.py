"""Variables of the environment that are named as a setting's would be, and are none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields

from twinsight_server.config import ServerConfig

PREFIX = "TWINSIGHT_"
CONFIG = f"{PREFIX}CONFIG"


def variable_of(setting: str) -> str:
    """Returns the name of the variable that a setting may be given by."""
    return PREFIX + setting.upper()


SETTINGS = frozenset({CONFIG, *(variable_of(field.name) for field in fields(ServerConfig))})
OF_OTHERS = frozenset(f"{PREFIX}{name}" for name in ("COMMIT", "TARGET", "TIMEOUT", "TLS_CA", "TOKEN", "TOKEN_FILE"))
"""What the client's commands and the benchmarks read: an image's health check has its variables beside the server's."""


def unknown_variables(environment: Iterable[str], *, known: Iterable[str] = ()) -> Mapping[str, str]:
    """Returns the `TWINSIGHT_...` variables that nothing reads, each with the setting's that it resembles or "".

    Kubernetes gives a container variables of each service in its namespace (`NAME_SERVICE_HOST`, `NAME_PORT`, ...),
    whose names may begin so; these are passed over.

    Args:
        environment: names of all variables.
        known: further names that are read.
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
