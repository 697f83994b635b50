"""What XLA compiled, and where it keeps it between starts."""

from __future__ import annotations

from pathlib import Path

import jax

_COMPILED_EVENT = "/jax/core/compile/backend_compile_duration"


def keep_compiled_code(folder: Path) -> None:
    """Lets XLA keep compiled programs in `folder`, so that the next start loads them.

    To be called before the first compilation. The folder is trusted: what it holds is run.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The defaults keep only what took over a second; a start compiles many small programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class CompilationCounter:
    """Counts every compilation in this process, also those that the persistent cache answers."""

    def __init__(self) -> None:
        self._total = 0
        self._base = 0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    def reset(self) -> None:
        """Counts from here: the server calls it when it begins to serve."""
        self._base = self._total

    @property
    def count(self) -> int:
        """Compilations since the last `reset`."""
        return self._total - self._base

    def close(self) -> None:
        """Stops counting."""
        jax.monitoring.unregister_event_duration_listener(self._on_event)

    def _on_event(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        if event == _COMPILED_EVENT:
            self._total += 1
