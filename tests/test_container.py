"""The container file, as far as it can be held without an engine that builds it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTRUCTIONS = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", (ROOT / "Containerfile").read_text("utf-8"))).splitlines()


def told(name: str) -> list[str]:
    """What follows an instruction's name, wherever it stands."""
    return [line.partition(" ")[2].strip() for line in INSTRUCTIONS if line.startswith(f"{name} ")]


def test_it_runs_as_a_user_whose_number_is_not_roots() -> None:
    (user,) = told("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    last_stage = INSTRUCTIONS[max(n for n, line in enumerate(INSTRUCTIONS) if line.startswith("FROM ")) :]
    assert f"USER {user}" in last_stage


def test_signals_reach_the_server_itself() -> None:
    for name in ("ENTRYPOINT", "CMD"):
        (command,) = told(name)
        assert isinstance(json.loads(command), list)  # and no shell between
    # As the first process, Python would pass over SIGTERM until it is up.
    assert json.loads(told("ENTRYPOINT")[0])[0] == "tini"
    assert told("STOPSIGNAL") == ["SIGTERM"]


def test_nothing_comes_from_an_address_or_past_the_lock() -> None:
    assert not told("ADD")
    assert "://" not in "\n".join(INSTRUCTIONS)
    syncs = [line for line in told("RUN") if "uv sync" in line]
    assert syncs
    assert all("--locked" in line and "--no-dev" in line for line in syncs)


def test_the_extra_that_it_installs_is_one_of_ours() -> None:
    (extra,) = (line.partition("=")[2] for line in told("ARG") if line.startswith("EXTRA="))
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]


def test_hnswlib_is_not_compiled_for_the_processor_that_builds() -> None:
    assert any("HNSWLIB_NO_NATIVE=1" in line for line in told("ENV"))
    assert "native" not in "".join(line for line in told("ARG"))


def test_what_runs_has_no_compiler() -> None:
    *_, last = (n for n, line in enumerate(INSTRUCTIONS) if line.startswith("FROM "))
    assert not any("apt-get" in line for line in INSTRUCTIONS[last:])


def test_what_it_copies_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".containerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = {source for line in told("COPY") if "--from" not in line for source in line.split()[:-1]}
    assert copied
    assert copied <= kept
    assert all((ROOT / source).exists() for source in copied)
    assert (ROOT / ".dockerignore").read_text("utf-8") == (ROOT / ".containerignore").read_text("utf-8")
