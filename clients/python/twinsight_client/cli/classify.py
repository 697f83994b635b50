"""`twinsight classify`: what pictures show."""

from __future__ import annotations

from pathlib import Path

import click

from twinsight_client.cli import exits
from twinsight_client.cli.batches import PICTURE, Answered, ask_in_batches
from twinsight_client.cli.help import examples
from twinsight_client.cli.output import percent, write_json, write_table
from twinsight_client.cli.settings import PATIENT, Settings, shared_options
from twinsight_client.results import ItemError, Label


@click.command(
    short_help="Say what pictures show.",
    epilog=examples(
        "twinsight classify cat.jpg",
        "twinsight classify *.jpg --top-k 1 --json",
    ),
)
@click.argument("files", metavar="IMAGE...", nargs=-1, required=True, type=PICTURE)
@click.option(
    "--top-k", "-k", type=click.IntRange(1, 2**31 - 1), default=5, show_default=True, help="Most labels for a picture."
)
@click.option(
    "--model",
    default="",
    metavar="NAME",
    help="Model to classify with.  [default: the server's, or its only one for this]",
)
@shared_options()
@click.pass_obj
def classify(settings: Settings, files: tuple[Path, ...], top_k: int, model: str) -> None:
    """Say which of a model's labels pictures bear, the most probable first.

    `twinsight models NAME` tells which labels there are. Files that can't be read are listed, and the exit code is 3.
    Where it ends early, as by Ctrl-C, it gives what was answered until then.
    """
    with settings.client(retry=PATIENT) as client:
        client.health()  # is never tried again: a server that is not there is told of at once
        answered = ask_in_batches(files, lambda batch: client.classify(batch, model=model, top_k=top_k))
    answered.write_errors()
    if settings.as_json:
        write_json({"model": answered.model, "results": [_result(*one) for one in answered.answers]})
    else:
        _write(answered)
    answered.raise_ended()
    if len(answered.successes()) < len(files):
        raise click.exceptions.Exit(exits.PARTIAL)


def _result(file: Path, answer: list[Label] | ItemError) -> dict[str, object]:
    """One answer for JSON."""
    return {"file": str(file), ("error" if isinstance(answer, ItemError) else "labels"): answer}


def _write(answered: Answered[list[Label]]) -> None:
    write_table(
        ("file", "label", "probability "),
        [(file, one.label, percent(one.probability)) for file, labels in answered.successes() for one in labels],
    )
