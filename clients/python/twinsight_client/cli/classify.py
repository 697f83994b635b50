"""`twinsight classify`: labels for pictures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import click
from click.core import ParameterSource

from twinsight_client.cli import exits
from twinsight_client.cli.batches import Answered, ask_in_batches
from twinsight_client.cli.given import FILE_OR_FOLDER, pictures_given
from twinsight_client.cli.help import examples
from twinsight_client.cli.label_table import LabelTable
from twinsight_client.cli.labelling import FIELDS_OF_FILES, Labeller, LabelReport, Shown
from twinsight_client.cli.numbers import FiniteRange
from twinsight_client.cli.output import check_writable, percent, write_error, write_json
from twinsight_client.cli.progress import progress_bar
from twinsight_client.cli.settings import PATIENT, Settings, shared_options
from twinsight_client.cli.tables import write_fields, write_table
from twinsight_client.results import ItemError, Label, ModelResults


@click.command(
    short_help="Classify pictures.",
    epilog=examples(
        "twinsight classify cat.jpg",
        "twinsight classify *.jpg --top-k 1 --json",
        "twinsight classify ~/Pictures --min-probability 0.8 --csv labels.csv",
        "twinsight classify ~/Pictures --min-probability 0.8 --write-to photos",
        'twinsight search cat.jpg --filter \'{"label": "cat"}\'',
    ),
)
@click.argument("paths", metavar="IMAGE|DIR...", nargs=-1, required=True, type=FILE_OR_FOLDER)
@click.option(
    "--top-k", "-k", type=click.IntRange(1, 2**31 - 1), default=5, show_default=True, help="Maximum labels per picture."
)
@click.option(
    "--min-probability",
    type=FiniteRange(0, 1),
    metavar="P",
    help="Only labels with at least this probability.  [default: all]",
)
@click.option(
    "--model",
    default="",
    metavar="NAME",
    help="Model to classify with.  [default: the server's default, or its only model for this]",
)
@click.option(
    "--csv",
    "out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write the labels to this CSV file as they arrive, one per row, instead of printing a table.",
)
@click.option(
    "--write-to",
    metavar="COLLECTION",
    help="Write each picture's best label and its probability to its item, instead of printing a table.",
)
@click.option("--prefix", default="", help="With --write-to: the --prefix that `twinsight index` was given.")
@click.option(
    "--label-field",
    metavar="NAME",
    default="label",
    show_default=True,
    help="With --write-to: field for the label.",
)
@click.option(
    "--probability-field",
    metavar="NAME",
    default="label_probability",
    show_default=True,
    help="With --write-to: field for its probability.",
)
@click.option("--replace", is_flag=True, help="With --write-to: also overwrite labels without a probability.")
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
    write_to: str | None,
    prefix: str,
    label_field: str,
    probability_field: str,
    replace: bool,
) -> None:
    """Classify pictures: print the labels of each one, most probable first.

    A folder stands for the JPEG, PNG and WebP files under it, as `twinsight index` finds them. `twinsight models NAME`
    shows the labels of a model. The --csv file has the columns `file`, `rank` (1 is the most probable), `label`,
    `probability` and `error`.

    With --write-to, the items that `twinsight index` created from these same files are labelled, a batch at a time,
    whichever of the folders above them was indexed. Their vectors and other fields are kept; of two concurrent changes
    to an item, the later wins. A label without a probability was set by somebody, and is kept unless --replace is
    given. A picture that gets no label, for example because of --min-probability, loses that of an earlier run. If any
    picture has no item, the exit code is 3.

    Files that can't be read are listed, and the exit code is 3. If it ends early, for example by Ctrl-C, it prints the
    results so far.
    """
    if write_to is None:
        _check_nothing_of_writing(click.get_current_context())
    else:
        _check_fields(label_field, probability_field)
    given = pictures_given(paths)
    if out is not None:
        check_writable(out)
    with settings.client(retry=PATIENT) as client, LabelTable(out) as table:
        client.health()  # never retried: an unreachable server is reported at once
        labeller = None
        if write_to is not None:
            client.get_collection(write_to)  # reports a wrong name before the work
            labeller = Labeller(
                client,
                write_to,
                prefix=prefix,
                label_field=label_field,
                probability_field=probability_field,
                replace=replace,
            )
        with progress_bar(shown=not settings.as_json and sys.stderr.isatty()) as progress:
            task = progress.add_task("classify", total=len(given.files))

            def take(answers: Mapping[int, list[Label] | ItemError]) -> None:
                table.write((given.files[place], answers[place]) for place in sorted(answers))
                if labeller is not None:
                    labeller.write(
                        [
                            Shown(given.files[place], given.folders[place], answer)
                            for place, answer in answers.items()
                            if not isinstance(answer, ItemError)
                        ]
                    )
                progress.advance(task, len(answers))

            answered = ask_in_batches(
                given.files,
                lambda batch: _drop_improbable(
                    client.classify(batch, model=model, top_k=top_k), min_probability or 0.0
                ),
                known=given.errors,
                arrived=take,
            )
    answered.write_errors()
    report = labeller.report if labeller is not None else None
    if settings.as_json:
        results = [_result(*one) for one in answered.answers]
        write_json({"model": answered.model, "results": results} | ({} if report is None else {"written_to": report}))
    elif out is None and report is None:
        _write(answered)
    if out is not None:
        write_error(f"Labels: {out} ({len(answered.successes())} pictures)")
    if report is not None and not settings.as_json:
        _print_report(report, pictures=len(given.files))
    answered.raise_ended()
    if len(answered.successes()) < len(given.files) or (report and (report.no_item or report.skipped)):
        raise click.exceptions.Exit(exits.PARTIAL)


def _check_nothing_of_writing(context: click.Context) -> None:
    for name in ("prefix", "label_field", "probability_field", "replace"):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} requires --write-to.")


def _check_fields(label_field: str, probability_field: str) -> None:
    for name, option in ((label_field, "--label-field"), (probability_field, "--probability-field")):
        if not name or name in FIELDS_OF_FILES:
            said = f"`{name}` is reserved for `twinsight index`." if name else "must not be empty."
            raise click.BadParameter(said, param_hint=option)
    if label_field == probability_field:
        raise click.UsageError("--label-field and --probability-field must differ.")


def _print_report(report: LabelReport, *, pictures: int) -> None:
    """Prints what was written to the items."""
    for one in report.skipped:
        write_error(f"not labelled {one.id}: {one.message} [{one.reason}]")
    if report.no_item:
        write_error(
            f"{len(report.no_item)} pictures have no item in {report.collection}, for example {report.no_item[0]}. "
            "Index them with `twinsight index`, and give the same --prefix here as there."
        )
    write_fields(
        {
            "collection": report.collection,
            "pictures": pictures,
            "written": report.written,
            "unchanged": report.unchanged,
            "kept": report.kept,
            "no label": report.no_label,
            "no item": len(report.no_item),
            "not labelled": len(report.skipped),
        }
    )


def _drop_improbable(results: ModelResults[list[Label]], least: float) -> ModelResults[list[Label]]:
    """Returns the results without the labels that are less probable than `least`."""
    answers = [
        answer if isinstance(answer, ItemError) else [one for one in answer if one.probability >= least]
        for answer in results
    ]
    return ModelResults(answers, model=results.model, call=results.call)


def _result(file: Path, answer: list[Label] | ItemError) -> dict[str, object]:
    """Returns one result for JSON."""
    return {"file": str(file), ("error" if isinstance(answer, ItemError) else "labels"): answer}


def _write(answered: Answered[list[Label]]) -> None:
    write_table(
        ("file", "label", "probability "),
        [(file, one.label, percent(one.probability)) for file, labels in answered.successes() for one in labels],
    )
    for file, labels in answered.successes():
        if not labels:
            write_error(f"no label for {file}")
