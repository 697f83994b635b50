"""`twinsight serve`: reads settings from flags, environment and a TOML file, in this order, and runs the server."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Literal, cast, get_args, get_origin, get_type_hints

import click
import structlog

from twinsight_core.commands.output import write_line
from twinsight_core.commands.paths import PathType
from twinsight_core.errors import StartupError
from twinsight_core.sealing.keyring import ENVIRONMENT
from twinsight_server.config import ServerConfig
from twinsight_server.config_file import read_settings
from twinsight_server.logs import set_up_logs
from twinsight_server.variables import CONFIG, unknown_variables, variable_of

Value = str | int | float | bool | Path | None

_LOOK_S = 0.5
"""How often the main thread checks for a signal that was recorded without waking it."""


class _Setting(click.Option):
    """An option that rejects an empty variable, not ignores it: `TWINSIGHT_API_KEYS=` must not let everyone in."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Returns the variable's value; None if it is not set.

        Raises:
            BadParameter: it is empty, and that is not the default.
        """
        if self.default != "" and isinstance(self.envvar, str) and os.environ.get(self.envvar) == "":
            raise click.BadParameter(f"{self.envvar} is empty: set it to a value, or unset it.", ctx=ctx, param=self)
        return super().resolve_envvar_value(ctx)


def _options() -> list[click.Parameter]:
    """Returns `--config` and one option for each field of ServerConfig."""
    hints = get_type_hints(ServerConfig, include_extras=True)
    options: list[click.Parameter] = [
        _Setting(
            ["--config"],
            type=PathType(dir_okay=False),
            callback=_read_file,
            is_eager=True,
            expose_value=False,
            envvar=CONFIG,
            show_envvar=True,
            help='TOML file with the settings by name (`data_dir = "/srv/twinsight"`).',
        )
    ]
    for field in dataclasses.fields(ServerConfig):
        hint, about = get_args(hints[field.name])
        flag = "--" + field.name.replace("_", "-")
        options.append(
            _Setting(
                [f"{flag}/--no-{flag[2:]}" if hint is bool else flag],
                type=_click_type(hint),
                default=cast("Value", field.default),
                show_default=field.default not in {None, ""},
                envvar=variable_of(field.name),
                show_envvar=True,
                help=about,
            )
        )
    return options


class _NumberOr(click.ParamType[float | str]):
    """A number, or one word in its place."""

    def __init__(self, word: str) -> None:
        self.name = f"float|{word}"
        self._word = word

    def convert(self, value: Value, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        """Returns the number or the word."""
        if value == self._word:
            return self._word
        try:
            return float(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither a number nor `{self._word}`.", param, ctx)


def _click_type(hint: type) -> click.Choice[str] | click.Path | _NumberOr | type:
    if float in get_args(hint):
        (words,) = (get_args(one) for one in get_args(hint) if get_origin(one) is Literal)
        return _NumberOr(*words)
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    if hint is Path or Path in get_args(hint):
        return PathType()
    return str if str in get_args(hint) else hint


def _read_file(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Uses the file's settings as defaults."""
    del parameter
    if path is None:
        return None
    try:
        context.default_map = read_settings(path)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return path


def _serve(**settings: Value) -> None:
    try:
        # click has checked each value against the field's type.
        config = ServerConfig(**settings)  # type: ignore[arg-type]
        set_up_logs(config.log_format, config.log_level)
        _warn_of_unknown_variables(config)
        run(config)
    except StartupError as error:
        write_line(f"twinsight: {error.message}", err=True)
        sys.exit(1)


def _warn_of_unknown_variables(config: ServerConfig) -> None:
    """Logs variables that are likely misspelt, and therefore have no effect."""
    own = [config.keyring.removeprefix(ENVIRONMENT)] if config.keyring else []
    log = structlog.stdlib.get_logger("twinsight.settings")
    for name, like in unknown_variables(os.environ, known=own).items():
        log.warning("ignoring unknown environment variable", variable=name, **({"like": like} if like else {}))


def wait_until(stopped: threading.Event) -> None:
    """Waits in the main thread for an event that a signal's handler sets.

    A signal that arrives just as the thread begins to wait, or in another thread, is recorded but does not wake it:
    without polling it would wait for ever, and the signal would be lost.
    """
    while not stopped.wait(_LOOK_S):
        pass


def run(config: ServerConfig) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP; prints `serving on HOST:PORT` once it is up, then `metrics on`.

    A signal during the start stops it once the model that is being compiled is done. SIGHUP, sent when the terminal
    closes, stays ignored if the process was started that way, as by `nohup`.

    Raises:
        StartupError: the server can't start.
    """
    stopped = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, on_signal)

    # The import takes seconds: `--help` should not wait for it, and a signal during it must not be lost.
    from twinsight_server.app import Server  # noqa: PLC0415

    if stopped.is_set():
        return
    server = Server(config)
    try:
        if server.start(stopped):
            write_line(f"serving on {server.address}")
            if server.metrics_address:
                write_line(f"metrics on {server.metrics_address}")
            wait_until(stopped)
    finally:
        failures = [error for error in (sys.exc_info()[1],) if error is not None]
        try:
            has_ended = server.stop()
        except Exception as error:  # noqa: BLE001 - logged below
            has_ended = False
            failures.append(error)
        if not has_ended:
            # On exit Python would join their threads, which never end if a model hangs.
            for failure in failures:
                logging.getLogger("twinsight").error("the server failed", exc_info=failure)
            logging.shutdown()
            sys.stdout.flush()
            os._exit(1 if failures else 0)


serve = click.Command(
    "serve",
    callback=_serve,
    params=_options(),
    help="""Serve models and collections over gRPC.

    Compiles every model for every batch size, tests it, and then prints `serving on HOST:PORT`. SIGTERM, Ctrl-C or
    closing the terminal drains the server: health turns NOT_SERVING, calls in flight finish, collections are closed.

    Each setting is a flag, an environment variable or a key of the TOML file; the first that is set wins.

    \b
    Examples:
      twinsight serve --data-dir /srv/twinsight
      twinsight serve --listen 0.0.0.0:50051 --tls-cert cert.pem --tls-key key.pem
      TWINSIGHT_MODELS_DIR=models twinsight serve --config twinsight.toml --metrics-listen 127.0.0.1:9464
    """,
)
