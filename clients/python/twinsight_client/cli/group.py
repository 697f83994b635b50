"""The `twinsight` group: error handling of all commands, and commands that are imported when they run."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import click

from twinsight_client.cli import exits
from twinsight_client.cli.output import write_error
from twinsight_client.cli.settings import target_of
from twinsight_client.errors import TwinsightClientError
from twinsight_client.unicode_text import NotUnicode


class CommandGroup(click.Group):
    """Turns errors into one line on standard error and an exit code; imports commands when they are needed.

    Attributes:
        locations: commands to import, by name, as MODULE:ATTRIBUTE, in addition to those that were added.
        sections: headings of the command list, and the names under each; other commands come under `Commands`.
    """

    locations: Mapping[str, str] = MappingProxyType({})
    sections: Mapping[str, Sequence[str]] = MappingProxyType({})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of all commands, in order."""
        return sorted({*super().list_commands(ctx), *self.locations})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns the command of a name; None if there is none."""
        if cmd_name not in self.commands and cmd_name in self.locations:
            self.add_command(_command_at(self.locations[cmd_name]), cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the command list, in sections."""
        found = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        shown = {name: command for name, command in found.items() if command is not None and not command.hidden}
        width = max((len(name) for name in shown), default=0)
        limit = formatter.width - 6 - width
        headed = {name for names in self.sections.values() for name in names}
        others = [name for name in shown if name not in headed]
        for heading, names in (*self.sections.items(), ("Commands", others)):
            # Padded, so that the texts of all sections start in the same column.
            rows = [(name.ljust(width), shown[name].get_short_help_str(limit)) for name in names if name in shown]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        """Runs the command.

        Raises:
            click.exceptions.Exit: it failed; the error has been printed.
        """
        _open_missing_streams()
        try:
            return super().invoke(ctx)
        except NotUnicode as error:
            write_error(f"Error: {error.message}")
            raise click.exceptions.Exit(exits.USAGE) from error
        except TwinsightClientError as error:
            write_error(f"Error: {exits.one_line(error, target=target_of(ctx))}")
            raise click.exceptions.Exit(exits.exit_code(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader of the output is gone; click exits quietly
            write_error(f"Error: {_os_error(error)}")
            raise click.exceptions.Exit(exits.FAILED) from error
        except KeyboardInterrupt as error:
            raise _interrupted() from error
        except click.Abort as error:
            # At a prompt, click raises it for Ctrl-C, for the end of the input, and for the answer no.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise _interrupted() from error
            raise


class ServerCommand(click.Command):
    """A command of an extra, imported when it runs; without the extra, it prints how to install it.

    Args:
        name: the command's name.
        location: module and attribute of the real command, as MODULE:ATTRIBUTE.
        short_help: its line in the command list, which is printed without importing it.
        extra: the extra that it needs.
    """

    def __init__(self, name: str, *, location: str, short_help: str, extra: str = "server") -> None:
        super().__init__(
            name,
            short_help=short_help,
            params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
            # The real command parses all options, including --help.
            add_help_option=False,
            context_settings={"ignore_unknown_options": True},
        )
        self._location = location
        self._extra = extra

    def invoke(self, ctx: click.Context) -> object:
        """Runs the real command with the arguments as given; it exits itself."""
        try:
            command = _command_at(self._location)
        except ModuleNotFoundError as error:
            if error.name in sys.stdlib_module_names:
                write_error(f"Error: `twinsight {self.name}` does not run on this system, which has no `{error.name}`")
                raise click.exceptions.Exit(exits.FAILED) from error
            write_error(
                f"Error: `twinsight {self.name}` needs the extra `{self._extra}`, which is not installed (no module "
                f"`{error.name}`). Install it with: pip install '.[{self._extra}]' in the folder of twinsight's sources"
            )
            raise click.exceptions.Exit(exits.FAILED) from error
        return command.main(
            args=list(ctx.params["arguments"]), prog_name=ctx.command_path, help_option_names=ctx.help_option_names
        )


def _open_missing_streams() -> None:
    """Opens the null device for standard streams that are closed (`>&-`): the next file would take their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8", errors="surrogateescape"))  # noqa: SIM115 - stays


def _command_at(location: str) -> click.Command:
    """Imports and returns a command.

    Raises:
        ModuleNotFoundError: its module, or one that it needs, is not installed.
        TypeError: the attribute is not a command.
    """
    module, _, attribute = location.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    if not isinstance(command, click.Command):
        raise TypeError(f"{location} is not a command.")
    return command


def _interrupted() -> click.exceptions.Exit:
    write_error("Interrupted.")
    return click.exceptions.Exit(exits.INTERRUPTED)


def _os_error(error: OSError) -> str:
    """Returns the message with the name of the file, if there is one."""
    said = error.strerror or str(error)
    return f"{error.filename}: {said}" if error.filename else said
