"""Logging to standard error, the core's included: one JSON object per line, or coloured text for humans."""

from __future__ import annotations

import io
import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, Processor

from twinsight_core.commands.output import printable, set_in


def set_up_logs(form: Literal["json", "console"], level: str) -> None:
    """Sends all lines of the process to standard error.

    Args:
        form: format of a line.
        level: least severe level to log: debug, info, warning or error.
    """
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if form == "json"
        # Not rich's tracebacks, which show the values of variables, tokens included.
        else [
            _as_lines,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_traceback),
        ]
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    least = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(logging.WARNING, least))
    for ours in ("twinsight", "twinsight_core"):
        logging.getLogger(ours).setLevel(least)
    logging.captureWarnings(capture=True)  # JAX's about its cache, for instance
    # grpcio logs a traceback for each malformed message: any client could fill the log.
    logging.getLogger("grpc._server").setLevel(logging.CRITICAL)


def _as_lines(logger: object, method: str, event: EventDict) -> EventDict:
    """Makes each text a single printable line; the console renderer shows other values by their repr."""
    del logger, method
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}


def _traceback(out: TextIO, failure: ExcInfo) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, failure)
    out.write(f"\n{set_in(text.getvalue().strip())}")
