from __future__ import annotations

import logging
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
    for name in ("twinsight", "grpc._server"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    structlog.reset_defaults()


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
