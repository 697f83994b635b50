from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from twinsight_server.logs import set_up_logs


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Gives the logs back to the tests."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    for name in ("twinsight", "twinsight_core", "grpc._server"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


@pytest.mark.parametrize(("level", "told"), [("debug", "abcde"), ("info", "bcde"), ("warning", "cde"), ("error", "e")])
def test_the_level_is_that_of_all_parts(level: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("json", level)
    logging.getLogger("twinsight_core.executors").debug("a")
    logging.getLogger("twinsight.app").info("b")
    logging.getLogger("another").warning("c")
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # in tests they are errors
        warnings.warn("d", stacklevel=1)
    logging.getLogger("twinsight_core.index").error("e")
    lines = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert [line if len(line) == 1 else "d" for line in lines] == list(told)


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_values_of_variables(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(form, "info")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    log = structlog.stdlib.get_logger("twinsight.test")

    def fails(metadata: tuple[tuple[str, str], ...]) -> None:
        raise RuntimeError(f"{len(metadata)} fields")

    try:
        fails((("authorization", "Bearer " + "tws_" + "SECRET"),))
    except RuntimeError:
        log.exception("call failed")
    told = capsys.readouterr().err
    assert "RuntimeError" in told
    assert "1 fields" in told
    assert "SECRET" not in told.replace('"tws_" + "SECRET"', "").replace('\\"tws_\\" + \\"SECRET\\"', "")


HOSTILE = "\x1b]0;owned\x07red\n2026-01-01T00:00:00Z [info ] all good \x9b31m"
ESCAPED = "\\x1b]0;owned\\x07red\\n2026-01-01T00:00:00Z [info ] all good \\x9b31m"


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_value_forges_a_line_or_commands_the_terminal(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs(form, "info")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    log = structlog.stdlib.get_logger("twinsight.test")
    log.info(HOSTILE, error="\x1b[31m", files=[HOSTILE])
    logging.getLogger("twinsight.core").warning("Collection `%s`", HOSTILE)
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError:
        log.exception("call failed")
        logging.getLogger("twinsight.core").exception("indexing failed")
    told = capsys.readouterr().err
    assert set(told) <= {"\n", *map(chr, range(32, 127))}
    if form == "console":
        first, second, *others = told.splitlines()
        assert ESCAPED in first
        assert first.count("all good") == 2
        assert ESCAPED in second
        lines = [line for line in others if not line.startswith("  ")]
        assert ["call failed" in lines[0], "indexing failed" in lines[1]] == [True, True]
        assert len(lines) == 2
