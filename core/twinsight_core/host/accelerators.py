"""Determines whether JAX has a GPU or TPU, without importing it if it can't have one.

Importing JAX takes about a second, and a server whose networks are compiled by OpenVINO and kept does not otherwise
need it.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec

from twinsight_core.host.cores import on_all_cores

_PLATFORMS = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME")
_PLUGINS = "jax_plugins"
_LIBRARIES = ("PJRT_NAMES_AND_LIBRARY_PATHS", "TPU_LIBRARY_PATH")


def has_accelerator() -> bool:
    """Returns whether JAX computes on anything other than the CPU."""
    if "jax" not in sys.modules and not may_have_accelerator():
        return False
    import jax  # noqa: PLC0415 - see above

    with on_all_cores():  # the first time it starts JAX's threads
        return jax.default_backend() != "cpu"


def may_have_accelerator() -> bool:
    """Returns whether JAX, once imported, could find one.

    It finds devices by plugins, which are modules of the namespace `jax_plugins` or entry points of that name, by
    `libtpu`, and by libraries that the environment names; the environment may as well keep it to some platforms
    (https://docs.jax.dev/en/latest/config_options.html, `jax_platforms`).
    """
    for name in _PLATFORMS:
        if platforms := os.environ.get(name):
            return any(platform.strip().lower() != "cpu" for platform in platforms.split(","))
    return any(os.environ.get(name) for name in _LIBRARIES) or _has_plugins()


@cache
def _has_plugins() -> bool:
    """Returns whether plugins are installed. Checking takes as long as opening a small collection, and each asks."""
    return any(find_spec(name) for name in (_PLUGINS, "libtpu")) or bool(entry_points(group=_PLUGINS))
