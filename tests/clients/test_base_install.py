"""The base install: the client works where nothing of the server extra is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.client

BLOCK = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    NAMES = {"jax", "jaxlib", "flax", "optax", "hnswlib", "apsw", "safetensors", "structlog", "prometheus_client",
             "grpc_reflection", "twinsight_core", "twinsight_server"}

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in self.NAMES:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run_blocked(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_every_module_of_the_client_imports_and_works_without_the_server_extra() -> None:
    done = run_blocked(
        """
import importlib, pkgutil
import twinsight_client
for module in pkgutil.walk_packages(twinsight_client.__path__, "twinsight_client."):
    importlib.import_module(module.name)
from twinsight_client import NewItem
from twinsight_client.testing import FakeClient
with FakeClient() as client:
    client.create_collection("c", dimension=2)
    client.upsert("c", [NewItem("a", [1.0, 0.0]), NewItem("b", [0.0, 1.0])]).values()
    (matches,) = client.search("c", [[0.9, 0.1]]).values()
    print([match.id for match in matches])
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "['a', 'b']\n", "")


def test_serve_without_the_server_extra_says_how_to_install_it() -> None:
    done = run_blocked("from twinsight_client.cli import main; main()", "serve", "--listen", "127.0.0.1:0")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "Error: `twinsight serve` needs the extra `server`, which is not installed (no module `twinsight_server`). "
        "Install it with: pip install '.[server]' in the folder of twinsight's sources\n"
    )


def test_the_help_is_printed_without_importing_the_server() -> None:
    done = run_blocked("from twinsight_client.cli import main; main()", "--help")
    assert done.returncode == 0
    assert "serve        Run the server." in done.stdout
