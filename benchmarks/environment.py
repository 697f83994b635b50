"""Where and with what a figure was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("twinsight", "jax", "jaxlib", "flax", "grpcio", "protobuf", "numpy", "pillow", "hnswlib", "apsw")
WRITTEN = ("benchmarks/results", "README.md", "docs")
"""What measuring writes: that it has done so does not change what is measured next."""


def environment() -> dict[str, object]:
    """Returns machine, versions, commit and time, as JSON values.

    The commit of a tree that was copied without its history is what the variable `TWINSIGHT_COMMIT` says.
    """
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": os.environ.get("TWINSIGHT_COMMIT") or _commit(),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gib": _memory_gib(), "system": platform.platform()},
        "python": platform.python_version(),
        "versions": dict(_versions()),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # where accelerators are, not everything is installed
            yield name, version(name)


def _commit() -> str:
    changes = _git("status", "--porcelain", "--", ":/", *(f":/!{one}" for one in WRITTEN))
    return _git("rev-parse", "--short=12", "HEAD") + ("+changes" if changes else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    flags = next((line for line in lines if line.startswith("flags")), "")
    return model + (", AVX-512" if "avx512f" in flags else "")


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
