"""Every reason that a caller may be told is explained."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What commands alone do, and how a start fails, is told on the terminal.
COMMANDS = {"training", "commands", "importing", "exporting", "evaluation", "sealing"}
OFFLINE = {"backups.py", "choosing.py", "removing.py", "restoring.py", "rekeying.py", "salvaging.py", "packages.py"}
AT_START = {"StartupError", "PackageError", "TrainingError", "WatchedFiles"}


def told() -> Iterator[tuple[str, str]]:
    """Yields each reason in a call that makes an error, and where it is."""
    for folder in (ROOT / "core" / "twinsight_core", ROOT / "server" / "twinsight_server"):
        for path in sorted(folder.rglob("*.py")):
            if COMMANDS & set(path.relative_to(folder).parts) or path.name in OFFLINE:
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if not isinstance(node, ast.Call) or getattr(node.func, "id", "") in AT_START:
                    continue
                for keyword in node.keywords:
                    if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant) and keyword.value.value:
                        yield str(keyword.value.value), f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_reason_is_in_the_documentation() -> None:
    explained = set(re.findall(r"`([A-Z_]+)`", (ROOT / "docs" / "errors.md").read_text("utf-8")))
    reasons = dict(told())
    assert len(reasons) > 50
    assert {reason: where for reason, where in reasons.items() if reason not in explained} == {}
