"""The server with no rights beyond its own data folder, as in a container: no home, and nothing else to write."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from e2e.tiny import save_embedder
from twinsight_client import Client, NewItem

TWINSIGHT = Path(sys.executable).parent / "twinsight"
NOBODY = 65532
"""The container's user, who has no line in /etc/passwd."""

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro / && exec "$@"'
"""Leaves of the root's file system one folder to write."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may enter, which pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="twinsight-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def confined(data: Path) -> list[str]:
    """What to put before a command that is to write nothing but a folder."""
    is_root = os.geteuid() == 0
    prefix = ["unshare", "--mount", *([] if is_root else ["--map-root-user"]), "sh", "-c", READ_ONLY, str(data)]
    try:
        tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if tried.returncode:
        pytest.skip(f"this user may make nothing read-only: {tried.stderr.strip()}")
    other = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    # A Python in root's home is root's alone to run.
    if is_root and not subprocess.run([*other, sys.executable, "-c", ""], capture_output=True, check=False).returncode:
        os.chown(data, NOBODY, NOBODY)
        return [*prefix, *other]
    return prefix


def test_a_server_writes_its_data_folder_alone(folder: Path) -> None:
    save_embedder(folder / "models" / "tiny", None)
    data = folder / "data"
    data.mkdir()
    before = confined(data)
    env = {name: value for name, value in os.environ.items() if name in {"PATH", "PYTHONPATH"}} | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "TWINSIGHT_BATCH_SIZE": "1",
        "TWINSIGHT_CACHE_DIR": str(data / "cache"),
        "TWINSIGHT_DATA_DIR": str(data),
        "TWINSIGHT_DEFAULT_MODEL": "tiny",
        "TWINSIGHT_EXECUTOR": "xla",  # OpenVINO's export, at a first start, takes a minute and a temporary folder, too
        "TWINSIGHT_LISTEN": "127.0.0.1:0",
    }
    flags = ["--models-dir", str(folder / "models"), "--models", "tiny"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*before, str(TWINSIGHT), "serve", *flags], env=env, cwd="/", stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("serving on "), (folder / "log").read_text()
        with Client(line.split()[-1]) as client:
            picture = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
            (embedding,) = client.embed([picture]).values()
            client.create_collection("pictures", model="tiny")
            client.upsert("pictures", [NewItem("a", picture)]).values()
            (matches,) = client.search("pictures", [embedding.vector]).values()
            assert [match.id for match in matches] == ["a"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()
    logged = (folder / "log").read_text()
    assert '"error"' not in logged
    assert "Read-only file system" not in logged
