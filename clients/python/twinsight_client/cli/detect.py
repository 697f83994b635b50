"""`twinsight detect`: objects in pictures, and where they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click
from PIL import Image

from twinsight_client.cli import exits
from twinsight_client.cli.batches import ask_in_batches
from twinsight_client.cli.drawing import Undrawable, draw_detections
from twinsight_client.cli.given import FILE_OR_FOLDER, Given, pictures_given
from twinsight_client.cli.help import examples
from twinsight_client.cli.numbers import FiniteRange
from twinsight_client.cli.output import write_error, write_json
from twinsight_client.cli.pictures import SUFFIXES
from twinsight_client.cli.settings import PATIENT, Settings, shared_options
from twinsight_client.cli.tables import write_table
from twinsight_client.cli.whole_files import save_picture
from twinsight_client.results import Detection, ItemError


@click.command(
    short_help="Detect objects in pictures.",
    epilog=examples(
        "twinsight detect street.jpg",
        "twinsight detect street.jpg --out found.png --min-score 0.8",
        "twinsight detect *.jpg --out found/",
    ),
)
@click.argument("paths", metavar="IMAGE|DIR...", nargs=-1, required=True, type=FILE_OR_FOLDER)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Draw the boxes on copies of the pictures; a file for one picture, a folder for several.",
)
@click.option(
    "--min-score",
    type=FiniteRange(0, 1),
    help="Only detections with at least this score.  [default: the server's 0.5]",
)
@click.option(
    "--max-detections", type=click.IntRange(1, 2**31 - 1), help="Maximum detections per picture.  [default: all]"
)
@click.option(
    "--model",
    default="",
    metavar="NAME",
    help="Model to detect with.  [default: the server's default, or its only model for this]",
)
@shared_options()
@click.pass_obj
def detect(
    settings: Settings,
    *,
    paths: tuple[Path, ...],
    out: Path | None,
    min_score: float | None,
    max_detections: int | None,
    model: str,
) -> None:
    """Detect objects in pictures: print each one's label, score and box, in fractions of the picture's size.

    A folder stands for the JPEG, PNG and WebP files under it, as `twinsight index` finds them. `twinsight models NAME`
    shows the labels of a model. Files that can't be read, or whose copy can't be drawn, are listed, and the exit code
    is 3. If it ends early, for example by Ctrl-C, it prints the results so far.
    """
    given = pictures_given(paths)
    files = given.files
    copies = {} if out is None else _copies(out, given)
    with settings.client(retry=PATIENT) as client:
        client.health()  # never retried: an unreachable server is reported at once
        answered = ask_in_batches(
            files,
            lambda batch: client.detect(
                batch, model=model, score_threshold=min_score, max_detections=max_detections or 0
            ),
            known=given.errors,
        )
    answered.write_errors()
    done = answered.successes()
    drawn: dict[Path, Path] = {}
    try:
        if out is not None:
            _draw(done, copies, drawn)
    finally:  # even if the drawing is interrupted, for example by Ctrl-C
        if settings.as_json:
            results = [_result(file, answer, drawn.get(file)) for file, answer in answered.answers]
            write_json({"model": answered.model, "results": results})
        else:
            _write(done)
    answered.raise_ended()
    if len(done) < len(files) or (out is not None and len(drawn) < len(set(files))):
        raise click.exceptions.Exit(exits.PARTIAL)


def _copies(out: Path, given: Given) -> dict[Path, Path]:
    """Returns the path of each file's copy: never one of the files themselves, and no path twice.

    A copy that can't have its file's own name does not overwrite an existing file, either: nobody asked for that name.
    """
    files = given.files
    for folder in set(given.folders):
        if folder is not None and out.resolve().is_relative_to(folder.resolve()):
            raise click.BadParameter(
                f"{out} is in {folder}: the next run would take the copies for pictures.", param_hint="--out"
            )
    is_file = not out.is_dir() and out.suffix.lower() in SUFFIXES
    if is_file and len(set(files)) > 1:
        raise click.BadParameter(f"{out} must be a folder: there are several pictures.", param_hint="--out")
    taken = {file.resolve() for file in files}
    if is_file and out.resolve() in taken:
        raise click.BadParameter(f"{out} is the picture itself, which is not overwritten.", param_hint="--out")
    _check_writable(out, is_file=is_file)
    copies: dict[Path, Path] = {}
    for file in dict.fromkeys(files):
        copy, number = (out if is_file else out / file.name), 1
        # Pillow may not know the suffix of the file's own name, or not write that format.
        stem, suffix = (file.stem, file.suffix) if file.suffix.lower() in SUFFIXES else (file.name, ".png")
        if not is_file and suffix != file.suffix:
            copy = out / f"{stem}{suffix}"
        while copy.resolve() in taken or (copy.name != file.name and not is_file and copy.exists()):
            number += 1
            copy = out / f"{stem}-{number}{suffix}"
        taken.add(copy.resolve())
        copies[file] = copy
    return copies


def _check_writable(out: Path, *, is_file: bool) -> None:
    """Rejects an --out that can't be written to: before the work, not after it."""
    folder = out.absolute().parent if is_file else out.absolute()
    # Missing folders are created.
    there = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    if not there.is_dir():
        raise click.BadParameter(f"{there} is not a folder.", param_hint="--out")
    target, rights = (out, os.W_OK) if is_file and out.exists() else (there, os.W_OK | os.X_OK)
    if not os.access(target, rights):
        raise click.BadParameter(f"{target} is not writable.", param_hint="--out")


def _draw(done: Sequence[tuple[Path, list[Detection]]], copies: dict[Path, Path], drawn: dict[Path, Path]) -> None:
    """Writes the copies, prints their paths or errors, and adds those that were written to `drawn`."""
    for file, detections in done:
        copy = copies[file]
        try:
            picture = draw_detections(file, detections)
            _save(picture, copy)
        except Undrawable as error:
            write_error(f"not drawn {file}: {error}")
            continue
        drawn[file] = copy
        write_error(f"Picture: {copy}")


def _save(picture: Image.Image, copy: Path) -> None:
    """Writes a copy.

    Raises:
        Undrawable: the disk is full, the path is not writable, or the picture is too large for its format.
    """
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        save_picture(picture, copy)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else None
        raise Undrawable(f"{copy}: {said or error}") from error


def _result(file: Path, answer: list[Detection] | ItemError, copy: Path | None) -> dict[str, object]:
    """Returns one result for JSON."""
    if isinstance(answer, ItemError):
        return {"file": str(file), "error": answer}
    result: dict[str, object] = {
        "file": str(file),
        "detections": [{"box": one.box._asdict(), "label": one.label, "score": one.score} for one in answer],
    }
    return result if copy is None else result | {"drawn": str(copy)}


def _write(done: Sequence[tuple[Path, list[Detection]]]) -> None:
    rows = [
        (file, one.label, f"{one.score:.3f}", *(f"{edge:.3f}" for edge in one.box))
        for file, detections in done
        for one in detections
    ]
    write_table(("file", "label", "score ", "x min ", "y min ", "x max ", "y max "), rows)
    for file, detections in done:
        if not detections:
            write_error(f"nothing found in {file}")
