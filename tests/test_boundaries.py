from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "twinsight_core": ROOT / "core" / "twinsight_core",
    "twinsight_server": ROOT / "server" / "twinsight_server",
    "twinsight_client": ROOT / "clients" / "python" / "twinsight_client",
}
FORBIDDEN = {
    "twinsight_core": {"grpc", "grpc_status", "google", "twinsight", "twinsight_server", "twinsight_client"},
    "twinsight_server": {"twinsight_client"},
    "twinsight_client": {"jax", "flax", "optax", "hnswlib", "apsw", "twinsight_core", "twinsight_server"},
}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every absolute import in a file, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_nothing_beyond_its_layer(package: str) -> None:
    files = sorted(PACKAGES[package].rglob("*.py"))
    assert files
    crossings = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imports(path)
        if name in FORBIDDEN[package]
    ]
    assert crossings == []


def leans(package: Path) -> dict[str, set[str]]:
    """What the folders in a package, and the modules beside them, import of one another."""
    found = dict[str, set[str]]()
    for path in package.rglob("*.py"):
        own = path.relative_to(package).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                top, *rest = node.module.split(".")
                if top == package.name:
                    found.setdefault(own, set()).update(rest[:1] or [alias.name for alias in node.names])
    return {own: others - {own} for own, others in found.items()}


@pytest.mark.parametrize("package", ["twinsight_core", "twinsight_server"])
def test_what_lies_in_a_package_leans_on_one_another_in_one_direction(package: str) -> None:
    assert list(TopologicalSorter(leans(PACKAGES[package])).static_order())  # raises CycleError


def test_the_rooms_of_the_core_stand_on_one_another() -> None:
    core = leans(PACKAGES["twinsight_core"])
    order = list(TopologicalSorter(core).static_order())
    assert order.index("host") < order.index("index") < order.index("storage") < order.index("collections")
    assert not core["host"]
    assert not {"storage", "collections"} & core["search"]


def test_messages_meet_arrays_in_convert_alone() -> None:
    """Outside `convert`, no server module reads vectors out of bytes or writes them."""
    for path in sorted(PACKAGES["twinsight_server"].rglob("*.py")):
        if path.parent.name != "convert":
            text = path.read_text("utf-8")
            assert "frombuffer" not in text, path
            assert "tobytes" not in text, path


def test_commands_print_through_one_function() -> None:
    """It escapes what is not printable: of packages, data sets and files nothing is a terminal's command."""
    printing = [
        str(path.relative_to(ROOT))
        for package in ("twinsight_core", "twinsight_server")
        for path in sorted(PACKAGES[package].rglob("*.py"))
        if re.search(r"click\.s?echo\(|(?<![\w.])print\(", path.read_text("utf-8"))
    ]
    assert printing == ["core/twinsight_core/commands/output.py"]


def test_no_file_is_longer_than_450_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in (*PACKAGES.values(), ROOT / "benchmarks", ROOT / "tests")
        for path in folder.rglob("*.py")
        # What hidden folders hold is not ours: the peers' environments.
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        if (lines := len(path.read_text("utf-8").splitlines())) > 450
    }
    assert long == {}
