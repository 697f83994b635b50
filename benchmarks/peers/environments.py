"""The peers' environments: a virtual environment each under `.envs`, from the pinned `requirements-NAME.txt`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.processes import PeerFailed

HERE = Path(__file__).parent
FOLDER = HERE / ".envs"
DEBIAN_PYTHON = "/usr/bin/python3.11"
"""Triton's Python backend is linked against the shared library of this one; a pyenv build has none."""
_BASE: dict[str, str] = {"triton": DEBIAN_PYTHON}


def python_of(name: str) -> Path:
    """Returns the interpreter of a peer's environment, which is made where it is missing or its requirements changed.

    Args:
        name: of `requirements-NAME.txt`; empty: the project's own environment.

    Raises:
        PeerFailed: it can't be made.
    """
    if not name:
        return Path(sys.executable)
    base = _BASE.get(name, sys.executable)
    requirements = HERE / f"requirements-{name}.txt"
    wanted = f"{base}\n{requirements.read_text()}"
    folder = FOLDER / name
    python, stamp = folder / "bin/python", folder / ".stamp"
    if not stamp.exists() or stamp.read_text() != wanted:
        if not Path(base).exists():
            raise PeerFailed(f"`{name}` needs {base}, which is not there (Debian: python3.11 and python3-venv).")
        shutil.rmtree(folder, ignore_errors=True)
        print(f"  {name}: installing ...", flush=True)
        _run(base, "-m", "venv", str(folder))
        _run(str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements))
        stamp.write_text(wanted)
    return python


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if "error" in line.lower()] or said
        raise PeerFailed(f"It can't be installed: {(errors or ['no message'])[-1].strip()[:300]}")
