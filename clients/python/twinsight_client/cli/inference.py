"""`twinsight compare` and `twinsight embed`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from twinsight_client.cli import exits
from twinsight_client.cli.batches import MAX_FILE_BYTES, TOO_LARGE, ask_in_batches, too_large
from twinsight_client.cli.given import FILE_OR_FOLDER, pictures_given
from twinsight_client.cli.help import examples
from twinsight_client.cli.numbers import FiniteRange
from twinsight_client.cli.output import check_writable, percent, write_error, write_json
from twinsight_client.cli.settings import PATIENT, Settings, shared_options
from twinsight_client.cli.tables import write_fields, write_table
from twinsight_client.errors import InvalidArgument, TwinsightClientError
from twinsight_client.results import Embedding, ItemError, ModelReference

_PICTURE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    short_help="Compare two pictures.",
    epilog=examples(
        "twinsight compare left.jpg right.jpg",
        "twinsight compare left.jpg right.jpg --target-fmr 0.001",
    ),
)
@click.argument("left", metavar="A", type=_PICTURE)
@click.argument("right", metavar="B", type=_PICTURE)
@click.option(
    "--model",
    default="",
    metavar="NAME",
    help="Model to compare with.  [default: the server's default, or its only model for this]",
)
@click.option(
    "--target-fmr",
    type=FiniteRange(0, 1, min_open=True),
    metavar="RATE",
    help="Decide at the operating point for this false match rate.  [default: the model's own threshold]",
)
@shared_options()
@click.pass_obj
def compare(settings: Settings, *, left: Path, right: Path, model: str, target_fmr: float | None) -> None:
    """Compare the pictures A and B.

    The probability is calibrated on pairs that the model never saw. `same` says whether the similarity passes the
    model's own threshold, or that of the operating point chosen by --target-fmr. The rates below it are the shares of
    different pairs that pass the threshold and of same pairs that fail it. `twinsight models NAME` shows what the
    probability is of, at even odds, and the operating points. A model without a calibration gives none of these.
    """
    for file in (left, right):
        if said := too_large(file.stat().st_size, most=MAX_FILE_BYTES // 2):
            raise InvalidArgument(f"{file}: {said}", reason=TOO_LARGE)
    with settings.client() as client:
        results = client.compare([(left, right)], model=model, target_fmr=target_fmr)
    (comparison,) = results
    if isinstance(comparison, ItemError):
        raise _of_file(comparison, left, right, request_id=results.call.request_id)
    if settings.as_json:
        write_json(
            {
                "left": str(left),
                "right": str(right),
                "model": results.model,
                "comparison": comparison,
                "request_id": results.call.request_id,
                "times": results.call.times,
            }
        )
        return
    fields: dict[str, object] = {
        "cosine similarity": f"{comparison.cosine_similarity:.4f}",
        "euclidean distance": f"{comparison.euclidean_distance:.4f}",
    }
    if comparison.probability is None:
        fields["probability"] = "unknown: the model has no calibration (twinsight calibrate)"
    else:
        fields["probability"] = percent(comparison.probability)
    if comparison.same is not None:
        fields["same"] = "yes" if comparison.same else "no"
    if comparison.threshold is not None:
        fields["threshold"] = f"{comparison.threshold:.4f}"
    if comparison.target_fmr is not None:
        fields["target FMR"] = f"{comparison.target_fmr:g}"
    if comparison.false_match_rate is not None:
        fields["false match rate"] = f"{comparison.false_match_rate:.2%}"
    if comparison.false_non_match_rate is not None:
        fields["false non-match rate"] = f"{comparison.false_non_match_rate:.2%}"
    write_fields(fields | {"model": results.model.name})


@click.command(
    short_help="Embed pictures as vectors.",
    epilog=examples(
        "twinsight embed *.jpg --out vectors.npz",
        "twinsight embed cat.jpg --json",
    ),
)
@click.argument("paths", metavar="IMAGE|DIR...", nargs=-1, required=True, type=FILE_OR_FOLDER)
@click.option(
    "--out", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write the vectors to this .npz file."
)
@click.option(
    "--model",
    default="",
    metavar="NAME",
    help="Model to embed with.  [default: the server's default, or its only model for this]",
)
@shared_options()
@click.pass_obj
def embed(settings: Settings, paths: tuple[Path, ...], out: Path | None, model: str) -> None:
    """Embed pictures as vectors of length 1.

    A folder stands for the JPEG, PNG and WebP files under it, as `twinsight index` finds them.

    --out writes a NumPy archive: `vectors` [pictures, dimension] float32, `files`, `model` and `digest`. Vectors are
    only comparable under the same digest. Files that can't be read are listed, and the exit code is 3. If it ends
    early, for example by Ctrl-C, it gives the results so far.
    """
    if out is not None and out.suffix != ".npz":
        raise click.BadParameter(f"{out.name} must end in .npz.", param_hint="--out")
    if out is not None:
        check_writable(out)
    given = pictures_given(paths)
    with settings.client(retry=PATIENT) as client:
        client.health()  # never retried: an unreachable server is reported at once
        answered = ask_in_batches(given.files, lambda batch: client.embed(batch, model=model), known=given.errors)
    done = answered.successes()
    if out is not None:
        _write_archive(out, done, answered.model)
    answered.write_errors()
    if settings.as_json:
        results = [_result(*one, with_vector=out is None) for one in answered.answers]
        write_json({"model": answered.model, "results": results})
    else:
        _write_vectors(done)
    answered.raise_ended()
    if len(done) < len(given.files):
        raise click.exceptions.Exit(exits.PARTIAL)


def _of_file(error: ItemError, left: Path, right: Path, *, request_id: str) -> TwinsightClientError:
    """Returns the error of a pair, with the name of the file concerned."""
    for side, file in (("left", left), ("right", right)):
        if error.field.startswith(f"pairs[0].{side}"):
            error = replace(error, message=f"{file}: {error.message}")
    return error.exception(request_id=request_id)


def _result(file: Path, answer: Embedding | ItemError, *, with_vector: bool) -> dict[str, object]:
    """Returns one result for JSON, without the vector if that went to the archive."""
    if isinstance(answer, ItemError):
        return {"file": str(file), "error": answer}
    return {"file": str(file), "vector": answer.vector} if with_vector else {"file": str(file)}


def _write_archive(out: Path, done: Sequence[tuple[Path, Embedding]], model: ModelReference) -> None:
    np.savez(
        out,
        vectors=np.array([answer.vector for _, answer in done], dtype=np.float32),
        files=np.array([str(file) for file, _ in done], dtype=np.str_),
        model=np.array(model.name),
        digest=np.array(model.digest),
    )
    write_error(f"Vectors: {out} ({len(done)} pictures)")


def _write_vectors(done: Sequence[tuple[Path, Embedding]]) -> None:
    """Prints the start of each vector: enough to see whether two are the same."""
    rows = [
        (file, answer.dimension, " ".join(f"{one:+.4f}" for one in answer.vector[:4]) + " …") for file, answer in done
    ]
    write_table(("file", "dimension ", "vector"), rows)
