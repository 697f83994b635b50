"""The `twinsight` command line.

`main` is the group of all commands, built from two tables. A command is imported only when it is needed, so that
`serve` or `health` does not wait for the imports of the others.
"""

from __future__ import annotations

from importlib import metadata

import click

from twinsight_client.cli import exits
from twinsight_client.cli.group import CommandGroup, ServerCommand
from twinsight_client.cli.help import examples
from twinsight_client.cli.settings import shared_options

CLIENT_COMMANDS = {
    "index": "twinsight_client.cli.index:index",
    "search": "twinsight_client.cli.search:search",
    "items": "twinsight_client.cli.items:items",
    "compare": "twinsight_client.cli.inference:compare",
    "embed": "twinsight_client.cli.inference:embed",
    "classify": "twinsight_client.cli.classify:classify",
    "detect": "twinsight_client.cli.detect:detect",
    "collections": "twinsight_client.cli.collections:collections",
    "models": "twinsight_client.cli.server_state:models",
    "health": "twinsight_client.cli.server_state:health",
    "bench": "twinsight_client.cli.bench:bench",
}
"""Commands that call a server, by name: where each is."""

SERVER_COMMANDS = {
    "serve": ("twinsight_server.cli:serve", "Run the server.", "server"),
    "keys": ("twinsight_server.access.commands:keys", "Create, list and revoke API keys.", "server"),
    "train": ("twinsight_core.commands.train:train", "Train a model on your own pictures.", "train"),
    "evaluate": ("twinsight_core.commands.evaluate:evaluate", "Evaluate a model on labelled pictures.", "train"),
    "calibrate": (
        "twinsight_core.commands.calibrate:calibrate",
        "Fit probabilities and thresholds to a model's scores.",
        "train",
    ),
    "import": (
        "twinsight_core.commands.import_:import_",
        "Create a model package from another project's weights.",
        "server",
    ),
    "export": (
        "twinsight_core.commands.export:export",
        "Export a model as ONNX or StableHLO, for other runtimes.",
        "server",
    ),
    "backup": ("twinsight_core.commands.backup:backup", "Back up collections while a server uses them.", "server"),
    "backups": ("twinsight_core.commands.backups:backups", "List what is in a backup, or remove it.", "server"),
    "restore": ("twinsight_core.commands.restore:restore", "Restore a backup to a data folder.", "server"),
    "keyring": ("twinsight_core.commands.keyring:keyring", "Create the keys that encrypt data on disk.", "server"),
    "rekey": ("twinsight_core.commands.rekey:rekey", "Encrypt a data folder, or change its key.", "server"),
    "salvage": ("twinsight_core.commands.salvage:salvage", "Recover what is left of a damaged collection.", "server"),
}
"""Commands of the extras, by name: where each is, its line in the help, and its extra."""

SECTIONS = {
    "Ask a server": tuple(CLIENT_COMMANDS),
    "Run and administer a server": ("serve", "keys", "backup", "backups", "restore", "keyring", "rekey", "salvage"),
    "Train and manage models": ("train", "evaluate", "calibrate", "import", "export"),
}
"""Headings of the command list, and the commands under each."""


@click.group(
    cls=CommandGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "twinsight serve --data-dir data &",
        "twinsight health --wait 60",
        "twinsight index ~/Pictures",
        "twinsight search cat.jpg --sheet matches.png",
    )
    + "\n\n"
    + exits.HELP,
)
@shared_options(on_group=True)
@click.version_option(metadata.version("twinsight"), prog_name="twinsight")
def main() -> None:
    """Image similarity: embed, search and compare pictures, classify them and detect objects in them.

    Start a server, index a folder of pictures, and search; see the examples below and each command's own --help. The
    options here are for the commands that ask a server; the others need no server.

    Results go to standard output, everything else to standard error.
    """


main.locations = CLIENT_COMMANDS
main.sections = SECTIONS
for _name, (_location, _short_help, _extra) in SERVER_COMMANDS.items():
    main.add_command(ServerCommand(_name, location=_location, short_help=_short_help, extra=_extra))
