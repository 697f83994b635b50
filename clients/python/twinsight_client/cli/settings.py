"""The options that all commands share, about the server and the output.

They may precede or follow the command (`twinsight --json models`, `twinsight models --json`); the later one counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import click

from twinsight_client.channel import DEFAULT_TARGET, ChannelOptions, Tls
from twinsight_client.cli.numbers import FiniteRange
from twinsight_client.cli.targets import checked_target
from twinsight_client.client import Client
from twinsight_client.retry import RetryPolicy
from twinsight_client.token import Bearer

_TOKEN = "TWINSIGHT_TOKEN"  # noqa: S105 - the variable's name
_TARGET = f"{__name__}.target"
PATIENT = RetryPolicy(attempts=10)
"""Lets a run of hours survive a restart of the server."""
Command = TypeVar("Command", bound=Callable[..., object] | click.Command)


def _connect(settings: Settings, retry: RetryPolicy) -> Client:
    settings.bearer()  # its error names the options
    return Client(
        settings.target,
        tls=settings.channel_tls(),
        token=settings.token(),
        channel=ChannelOptions(allow_plaintext_token=settings.allow_plaintext_token),
        retry=retry,
        timeout_s=settings.timeout_s,
    )


@dataclass(frozen=True)
class Settings:
    """The options that all commands share.

    Attributes:
        target: HOST:PORT of the server.
        timeout_s: deadline of each call; None: a default for its kind.
        tls: use TLS, with the certificates that gRPC ships with unless `tls_ca` is given.
        tls_ca: certificates to trust; turns TLS on.
        tls_cert: client certificate, for mutual TLS.
        tls_key: private key of `tls_cert`.
        tls_server_name: expected name in the server's certificate.
        token_file: file with the token; None: it is in the environment, or there is none.
        allow_plaintext_token: send the token without TLS to other machines, too.
        as_json: print one JSON document instead of tables.
        connect: creates the client.
    """

    target: str = DEFAULT_TARGET
    timeout_s: float | None = None
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_server_name: str = ""
    token_file: Path | None = None
    allow_plaintext_token: bool = False
    as_json: bool = False
    connect: Callable[[Settings, RetryPolicy], Client] = _connect

    def channel_tls(self) -> Tls | None:
        """Returns the TLS settings; None: plain text.

        Raises:
            click.UsageError: TLS options that contradict each other.
        """
        if not (self.tls or self.tls_ca or self.tls_cert or self.tls_key or self.tls_server_name):
            return None
        if (self.tls_cert is None) != (self.tls_key is None):
            raise click.UsageError("--tls-cert and --tls-key must be given together.")
        return Tls(ca=self.tls_ca, certificate=self.tls_cert, key=self.tls_key, server_name=self.tls_server_name)

    def token(self) -> str | None:
        """Returns the token, which is never an option's value: every user of the machine could see that.

        Raises:
            OSError: its file can't be read.
            click.UsageError: it is not UTF-8.
        """
        return self._token

    @cached_property
    def _token(self) -> str | None:
        # Read once: a pipe, such as the shell's <(...), can be read only once.
        if self.token_file:
            try:
                return self.token_file.read_text("utf-8-sig").strip()
            except UnicodeDecodeError:
                raise click.BadParameter(f"{self.token_file} is not UTF-8.", param_hint="--token-file") from None
        return os.environ.get(_TOKEN) or None

    def bearer(self) -> Bearer:
        """Returns the object that adds the token to calls.

        Raises:
            click.UsageError: the token is malformed or would be sent in plain text.
        """
        try:
            tls, allow = self.channel_tls(), self.allow_plaintext_token
            bearer = Bearer(self.token(), target=self.target, tls=tls, allow_plaintext=allow)
            bearer.metadata(request_id="")
        except ValueError as error:
            raise click.UsageError(
                str(error).replace("`ChannelOptions(allow_plaintext_token=True)`", "--allow-plaintext-token")
            ) from None
        return bearer

    def client(self, *, retry: RetryPolicy | None = None) -> Client:
        """Returns a client of the server.

        Raises:
            click.UsageError: TLS options that contradict each other, a file that is not PEM, or an address without a
                port.
        """
        checked_target(self.target)
        try:
            return self.connect(self, retry or RetryPolicy())
        except ValueError as error:
            raise click.UsageError(str(error)) from None


def shared_options(*, on_group: bool = False) -> Callable[[Command], Command]:
    """Returns the decorator that adds the shared options to a command.

    Args:
        on_group: show all of them in the help, and read the environment. A command does neither: its help would be
            mostly about TLS, and the environment would override options given before the command.
    """
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    option = partial(click.option, expose_value=False, callback=_keep)
    tls_option = partial(option, hidden=not on_group)
    options = (
        option(
            "--target",
            metavar="HOST:PORT",
            envvar="TWINSIGHT_TARGET" if on_group else None,
            help=f"Address of the server.  [env: TWINSIGHT_TARGET; default: {DEFAULT_TARGET}]",
        ),
        option(
            "--timeout",
            "timeout_s",
            type=FiniteRange(min=0, min_open=True),
            metavar="SECONDS",
            envvar="TWINSIGHT_TIMEOUT" if on_group else None,
            help="Deadline of each call.  [env: TWINSIGHT_TIMEOUT; default: 10 to 600, by kind of call]",
        ),
        option("--json", "as_json", is_flag=True, default=None, help="Print one JSON document instead of tables."),
        tls_option("--tls", is_flag=True, default=None, help="Use TLS, trusting the public certificate authorities."),
        tls_option(
            "--tls-ca",
            type=file,
            metavar="FILE",
            envvar="TWINSIGHT_TLS_CA" if on_group else None,
            help="Use TLS, trusting these certificates (PEM).  [env: TWINSIGHT_TLS_CA]",
        ),
        tls_option("--tls-cert", type=file, metavar="FILE", help="Client certificate (PEM), for mutual TLS."),
        tls_option("--tls-key", type=file, metavar="FILE", help="Private key (PEM) of --tls-cert."),
        tls_option(
            "--token-file",
            type=file,
            metavar="FILE",
            envvar="TWINSIGHT_TOKEN_FILE" if on_group else None,
            help="File with the API key or JWT to call with.  [env: TWINSIGHT_TOKEN_FILE, or the token itself in "
            "TWINSIGHT_TOKEN]",
        ),
        tls_option(
            "--allow-plaintext-token",
            is_flag=True,
            default=None,
            help="Send the token without TLS to other machines, too.",
        ),
        tls_option("--tls-server-name", metavar="NAME", help="Expected name in the server's certificate."),
    )

    def add(command: Command) -> Command:
        for one in reversed(options):
            command = one(command)
        return command

    return add


def target_of(context: click.Context) -> str:
    """Returns the server's address that the innermost command was given."""
    return str(context.meta.get(_TARGET, DEFAULT_TARGET))


def _keep(context: click.Context, parameter: click.Parameter, value: str | float | bool | Path | None) -> None:
    """Stores an option in the settings of this command and of those below it."""
    settings = context.obj if isinstance(context.obj, Settings) else Settings()
    if value is not None and parameter.name is not None:
        given = {one.name: vars(settings)[one.name] for one in fields(settings)}
        given[parameter.name] = value
        settings = Settings(**given)
    context.obj = settings
    # Shared with the contexts above, which print errors.
    context.meta[_TARGET] = settings.target
