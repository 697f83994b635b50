from __future__ import annotations

import json
import logging
import sys

import pytest

from twinsight_core.commands.failing import exit_on_failure
from twinsight_core.commands.output import LineFormatter, printable, write_json
from twinsight_core.errors import PackageError

HOSTILE = "\x1b]0;owned\x07red\nall good: \x9b31m\u202ecaf\udce9"
ESCAPED = "\\x1b]0;owned\\x07red\\nall good: \\x9b31m\\u202ecaf\\udce9"


def test_what_is_not_printable_is_escaped() -> None:
    assert printable(HOSTILE) == ESCAPED
    assert printable("für 日本") == "für 日本"


def test_a_failure_is_one_line_and_a_line_for_each_thing_that_it_lists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), exit_on_failure():
        raise PackageError(f"two things: {HOSTILE}", reason="PACKAGE_CARD", listed=["one", HOSTILE])
    assert capsys.readouterr().err == f"twinsight: two things: {ESCAPED}\n  one\n  {ESCAPED}\n"
    with pytest.raises(SystemExit), exit_on_failure():
        raise FileNotFoundError(2, "No such file", "a\nb")
    assert capsys.readouterr().err == "twinsight: a\\nb: No such file\n"


def test_json_is_in_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"scores": {HOSTILE: 1.0}})
    told = capsys.readouterr().out
    assert told.isascii()
    assert "\x1b" not in told
    assert json.loads(told) == {"scores": {HOSTILE: 1.0}}


def test_a_line_of_a_commands_log_is_one_and_a_traceback_is_set_in() -> None:
    record = logging.LogRecord("twinsight_core", logging.WARNING, __file__, 1, "skipped %s", (HOSTILE,), None)
    assert LineFormatter().format(record) == f"skipped {ESCAPED}"
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError:
        record.exc_info = sys.exc_info()
    first, *others = LineFormatter("%(levelname)s %(message)s").format(record).split("\n")
    assert first == f"WARNING skipped {ESCAPED}"
    assert all(line.startswith("  ") for line in others)
    assert "\x1b" not in "".join(others)


def test_what_the_core_logs_in_a_command_without_logs_is_a_line_too() -> None:
    with exit_on_failure():
        assert logging.lastResort is not None
        assert isinstance(logging.lastResort.formatter, LineFormatter)
