"""`twinsight classify`: what pictures show."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click

from twinsight_client.cli import exits
from twinsight_client.cli.batches import Answered, ask_in_batches
from twinsight_client.cli.given import FILE_OR_FOLDER, pictures_given
from twinsight_client.cli.help import examples
from twinsight_client.cli.label_table import LabelTable
from twinsight_client.cli.output import check_writable, percent, write_error, write_json, write_table
from twinsight_client.cli.progress import progress_bar
from twinsight_client.cli.settings import PATIENT, Settings, shared_options
from twinsight_client.results import ItemError, Label, ModelResults


@click.command(
    short_help="Say what pictures show.",
    epilog=examples(
        "twinsight classify cat.jpg",
        "twinsight classify *.jpg --top-k 1 --json",
        "twinsight classify ~/Pictures --min-probability 0.8 --csv labels.csv",
    ),
)
@click.argument("paths", metavar="IMAGE|DIR...", nargs=-1, required=True, type=FILE_OR_FOLDER)
@click.option(
    "--top-k", "-k", type=click.IntRange(1, 2**31 - 1), default=5, show_default=True, help="Most labels for a picture."
)
@click.option(
    "--min-probability",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Only labels with at least this probability.  [default: all]",
)
@click.option(
    "--model",
    default="",
    metavar="NAME",
    help="Model to classify with.  [default: the server's, or its only one for this]",
)
@click.option(
    "--csv",
    "out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write the labels to this file as they come, a row each, instead of printing a table.",
)
@shared_options()
@click.pass_obj
def classify(
    settings: Settings,
    *,
    paths: tuple[Path, ...],
    top_k: int,
    min_probability: float | None,
    model: str,
    out: Path | None,
) -> None:
    """Say which of a model's labels pictures bear, the most probable first.

    Of a folder these are the JPEG, PNG and WebP files under it, as `twinsight index` finds them. `twinsight models
    NAME` tells which labels there are. With --csv the file has the columns `file`, `rank` (1 is the most probable),
    `label`, `probability` and `error`.

    Files that can't be read are listed, and the exit code is 3. Where it ends early, as by Ctrl-C, it gives what was
    answered until then.
    """
    given = pictures_given(paths)
    if out is not None:
        check_writable(out)
    with settings.client(retry=PATIENT) as client, LabelTable(out) as table:
        client.health()  # is never tried again: a server that is not there is told of at once
        with progress_bar(shown=not settings.as_json and sys.stderr.isatty()) as progress:
            task = progress.add_task("classify", total=len(given.files))

            def take(answers: Mapping[int, list[Label] | ItemError]) -> None:
                table.write((given.files[place], answers[place]) for place in sorted(answers))
                progress.advance(task, len(answers))

            answered = ask_in_batches(
                given.files,
                lambda batch: _sure(client.classify(batch, model=model, top_k=top_k), min_probability or 0.0),
                known=given.errors,
                arrived=take,
            )
    answered.write_errors()
    if settings.as_json:
        write_json({"model": answered.model, "results": [_result(*one) for one in answered.answers]})
    elif out is None:
        _write(answered)
    if out is not None:
        write_error(f"Labels: {out} ({len(answered.successes())} pictures)")
    answered.raise_ended()
    if len(answered.successes()) < len(given.files):
        raise click.exceptions.Exit(exits.PARTIAL)


def _sure(results: ModelResults[list[Label]], least: float) -> ModelResults[list[Label]]:
    """The same answers without the labels that are less probable."""
    answers = [
        answer if isinstance(answer, ItemError) else [one for one in answer if one.probability >= least]
        for answer in results
    ]
    return ModelResults(answers, model=results.model, call=results.call)


def _result(file: Path, answer: list[Label] | ItemError) -> dict[str, object]:
    """One answer for JSON."""
    return {"file": str(file), ("error" if isinstance(answer, ItemError) else "labels"): answer}


def _write(answered: Answered[list[Label]]) -> None:
    write_table(
        ("file", "label", "probability "),
        [(file, one.label, percent(one.probability)) for file, labels in answered.successes() for one in labels],
    )
    for file, labels in answered.successes():
        if not labels:
            write_error(f"no label for {file}")
