"""What XLA compiled, and where it keeps it between starts.

Neither is of use to a process that does not compile, so JAX is imported by `begin_compiling`, which whatever compiles
calls first.
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

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

    To be called before the first compilation. The folder is trusted: what it holds is run. Where it can't be made
    nothing is kept, and the log says so.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        _LOG.warning("%s can't be made (%s): each start compiles anew", folder, error.strerror)
        return
    _compiled.folder = folder
    if "jax" in sys.modules:
        begin_compiling()


def begin_compiling() -> None:
    """Sees to it that what is compiled from now on is counted, and kept where `keep_compiled_code` has said."""
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
    """Counts every compilation in this process, also those that the persistent cache answers."""

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
