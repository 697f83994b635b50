"""The `twinsight` command line.

`main` is the group of all commands: two tables, from which nothing is imported before it is asked for. A start of the
server, or a look at its health, need not wait for what other commands are made of.
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
"""Commands that ask a server: where each is."""

SERVER_COMMANDS = {
    "serve": ("twinsight_server.cli:serve", "Run the server.", "server"),
    "keys": ("twinsight_server.access.commands:keys", "Make, list and revoke API keys.", "server"),
    "train": ("twinsight_core.commands.train:train", "Train a model on your own pictures.", "train"),
    "evaluate": ("twinsight_core.commands.evaluate:evaluate", "Measure a model on labelled pictures.", "train"),
    "calibrate": (
        "twinsight_core.commands.calibrate:calibrate",
        "Turn a model's scores into probabilities and thresholds.",
        "train",
    ),
    "import": (
        "twinsight_core.commands.import_:import_",
        "Make a model package from another project's weights.",
        "server",
    ),
    "export": (
        "twinsight_core.commands.export:export",
        "Write a model as ONNX or StableHLO, for other runtimes.",
        "server",
    ),
    "backup": ("twinsight_core.commands.backup:backup", "Copy collections while a server uses them.", "server"),
    "backups": ("twinsight_core.commands.backups:backups", "List what is in a backup, or take it out.", "server"),
    "restore": ("twinsight_core.commands.restore:restore", "Put a backup into a data folder.", "server"),
    "keyring": ("twinsight_core.commands.keyring:keyring", "Make the keys that encrypt data on disk.", "server"),
    "rekey": ("twinsight_core.commands.rekey:rekey", "Encrypt a data folder, or change its key.", "server"),
    "salvage": ("twinsight_core.commands.salvage:salvage", "Save what is left of a damaged collection.", "server"),
}
"""Commands of the extras: where each is, its line in the help, and its extra."""


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
    """Image similarity: embed, search and compare pictures; say what they show, and find things in them.

    Start a server, give it a folder of pictures, and search; see the examples below and each command's own --help.
    Backup, backups, calibrate, evaluate, export, import, keyring, keys, rekey, restore, salvage and train work on files
    alone; all others but serve ask a server, for which the options here are.

    Results go to standard output, everything else to standard error.
    """


main.locations = CLIENT_COMMANDS
for _name, (_location, _short_help, _extra) in SERVER_COMMANDS.items():
    main.add_command(ServerCommand(_name, location=_location, short_help=_short_help, extra=_extra))
