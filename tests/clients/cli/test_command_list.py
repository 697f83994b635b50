"""The command list of `twinsight --help`: sections, and no more imports than click asks for."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from twinsight_client.cli import CLIENT_COMMANDS, SECTIONS, main
from twinsight_client.cli.group import CommandGroup

pytestmark = pytest.mark.client


def test_commands_are_listed_under_the_heading_that_says_whether_they_ask_a_server() -> None:
    lines = CliRunner().invoke(main, ["--help"]).stdout.splitlines()
    listed: dict[str, list[str]] = {}
    heading = ""
    for line in lines:
        if not line or line.endswith(":"):
            heading = line.removesuffix(":")
        elif heading in SECTIONS:
            listed.setdefault(heading, []).append(line.split()[0])
    assert listed == {heading: list(names) for heading, names in SECTIONS.items()}
    assert listed["Ask a server"] == list(CLIENT_COMMANDS)
    assert "Commands:" not in lines


def test_every_command_has_one_heading() -> None:
    names = [name for section in SECTIONS.values() for name in section]
    assert sorted(names) == main.list_commands(click.Context(main))


def test_a_command_without_a_heading_is_listed_and_each_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def get_command(_group: CommandGroup, _context: click.Context, name: str) -> click.Command:
        loaded.append(name)
        return click.Command(name, short_help=f"Does {name}.", hidden=name == "secret")

    monkeypatch.setattr(CommandGroup, "get_command", get_command)
    group = CommandGroup("probe")
    group.locations = {"two": "", "four": "", "three": "", "secret": ""}
    group.sections = {"Numbers": ("two", "missing"), "Nothing": ("secret",)}
    text = group.get_help(click.Context(group))
    assert text.endswith("Numbers:\n  two    Does two.\n\nCommands:\n  four   Does four.\n  three  Does three.")
    assert sorted(loaded) == ["four", "secret", "three", "two"]


def test_nothing_is_imported_for_commands_that_do_not_run() -> None:
    listed = "import sys, twinsight_client.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True).stdout.split()
    assert "click" in loaded
    assert not {"rich", *(location.partition(":")[0] for location in CLIENT_COMMANDS.values())} & set(loaded)
