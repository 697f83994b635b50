"""Counts XLA's compilations, and keeps compiled programs between starts.

A process that does not compile needs neither, so `begin_compiling`, which must be called before compiling, imports JAX.
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

from twinsight_core.host.private_folders import make_private

_LOG = logging.getLogger(__name__)
_COMPILED_EVENT = "/jax/core/compile/backend_compile_duration"


class _Compiled:
    """What this process has compiled, and where it is kept."""

    def __init__(self) -> None:
        self.total = 0
        self.folder: Path | None = None
        self.listening = False
        self.lock = threading.Lock()


_compiled = _Compiled()


def keep_compiled_code(folder: Path) -> None:
    """Lets XLA keep compiled programs in `folder`, so that the next start loads them.

    Call it before the first compilation. The folder is trusted: its contents are run. If it can't be created, nothing
    is kept, which is logged.
    """
    try:
        make_private(folder)
    except OSError as error:
        _LOG.warning("can't create %s (%s): each start compiles again", folder, error.strerror)
        return
    _compiled.folder = folder
    if "jax" in sys.modules:
        begin_compiling()


def begin_compiling() -> None:
    """Makes XLA count compilations from now on, and keep programs in the folder of `keep_compiled_code`."""
    import jax  # noqa: PLC0415 - see above

    with _compiled.lock:
        if not _compiled.listening:
            jax.monitoring.register_event_duration_secs_listener(_on_event)
            _compiled.listening = True
        if _compiled.folder is not None:
            jax.config.update("jax_compilation_cache_dir", str(_compiled.folder))
            # The defaults keep only what took over a second; a start compiles many small programs.
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
            _compiled.folder = None


class CompilationCounter:
    """Counts every compilation in this process, including those that the persistent cache answers."""

    def __init__(self) -> None:
        if "jax" in sys.modules:
            begin_compiling()
        self._base = _compiled.total

    def reset(self) -> None:
        """Counts from here: the server calls it when it begins to serve."""
        self._base = _compiled.total

    @property
    def count(self) -> int:
        """Compilations since the last `reset`."""
        return _compiled.total - self._base


def _on_event(event: str, duration_secs: float, **kwargs: str | int) -> None:
    del duration_secs, kwargs
    if event == _COMPILED_EVENT:
        with _compiled.lock:
            _compiled.total += 1
