"""Generates the typed Python stubs of `proto/twinsight` into `proto/gen`, for wheels and editable installs alike.

Generated code keeps protobuf's own path: `package twinsight.v1` is `import twinsight.v1`.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from importlib import resources
from pathlib import Path
from typing import Any

import grpc_tools
from google.rpc import status_pb2
from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTO = Path(__file__).resolve().parent


class ProtoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs protoc with the message, service and type generators before files are collected."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Writes `gen/twinsight/v1`, with a `py.typed` that lets type checkers read it."""
        generate(PROTO / "gen")


def generate(target: Path) -> None:
    """Compiles every .proto file of the project.

    Args:
        target: folder that becomes an import root; made if missing, never emptied (an editable install points to it).

    Raises:
        RuntimeError: protoc refused a file; its own message is on standard error.
    """
    target.mkdir(parents=True, exist_ok=True)
    # In an isolated build environment the plugins lie beside that environment's Python, not on PATH.
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    includes = [PROTO, Path(str(resources.files(grpc_tools))) / "_proto", _googleapis()]
    # With slashes also on Windows, where protoc takes no other.
    sources = sorted(path.relative_to(PROTO).as_posix() for path in PROTO.glob("twinsight/**/*.proto"))
    outputs = [f"--{kind}_out={target}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    if protoc.main(["protoc", *(f"-I{path}" for path in includes), *outputs, *sources]) != 0:
        raise RuntimeError("protoc failed; its message is above.")
    for package in {(target / source).parent for source in sources}:
        (package / "py.typed").touch()
        (package / "__init__.py").write_text('"""Messages and stubs of the package twinsight.v1, generated."""\n')


def _googleapis() -> Path:
    """Folder that holds google/rpc/status.proto, in the installed googleapis-common-protos."""
    return Path(status_pb2.__file__).parents[2]


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTO / "gen")
