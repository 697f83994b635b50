"""The list of advisories speaks of the versions that are locked."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(r"^\| ([a-z][a-z0-9-]*) \| ([0-9][0-9., ]*) \|", re.MULTILINE)
"""A package, and the versions of it that are locked: one for each that Python's versions ask for."""

MEET_HOSTILE_INPUT = {"pillow", "grpcio", "protobuf", "pyjwt", "cryptography", "apsw", "hnswlib"}


def test_the_versions_in_the_list_of_advisories_are_those_that_are_locked() -> None:
    locked: dict[str, list[str]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]:
        locked.setdefault(package["name"], []).append(package.get("version", ""))
    told = {name: versions.split(", ") for name, versions in ROW.findall((ROOT / "docs/dependencies.md").read_text())}
    assert told.keys() >= MEET_HOSTILE_INPUT
    assert told == {name: sorted(locked[name]) for name in told}
