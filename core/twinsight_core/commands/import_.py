"""`twinsight import`: a model package from a weight file of another project."""

from __future__ import annotations

import re
from pathlib import Path

import click

from twinsight_core.commands.failing import exit_on_failure
from twinsight_core.commands.folders import package_option
from twinsight_core.commands.output import write_line
from twinsight_core.commands.paths import PathType
from twinsight_core.errors import StartupError
from twinsight_core.importing.package import CLASSIFIER_PX, IMPORTABLE, NOT_STATED, Importable, import_package

_NUMBERED = re.compile(r"(?P<number>\d{1,9})\s*[,:;\t]\s*(?P<name>.+)")


@click.command(
    "import",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Create a model package from a weight file of another project.

    Every tensor is checked by name and shape; the network's size is derived from them.

    \b
    Examples:
      twinsight import --architecture resnet --weights resnet50.pth --out models/resnet50 --labels imagenet.txt
      twinsight import --architecture mobilefacenet --weights faces.ckpt --out models/faces --licence MIT
    """,
)
@click.option(
    "--architecture",
    type=click.Choice(IMPORTABLE),
    required=True,
    help="Architecture of the weights: mobilefacenet and resnet with PyTorch's names (torchvision or timm), "
    "mobilenet_v1 with those of Keras Applications. resnet means plain ones, on pixels scaled by ImageNet's mean and "
    "standard deviation: timm's with anti-aliasing (resnetblur50, resnetaa50) have the same tensors, so they are "
    "accepted but give wrong outputs. mobilefacenet is for faces that are cropped and aligned.",
)
@click.option(
    "--weights",
    type=PathType(dir_okay=False),
    required=True,
    help="Weight file: safetensors, or PyTorch (.pt, .pth, .ckpt, .bin), which needs the extra `torch`.",
)
@package_option("Package folder to write; its name is the model's. An existing package is replaced.")
@click.option(
    "--labels",
    type=PathType(dir_okay=False),
    help="Class names, one per line in the order of the weights, or `N, name`. Repeated names get their number "
    "appended. Without it, classes are named `class 0` and so on.",
)
@click.option("--input-px", type=int, help=f"Side of a classifier's input in pixels.  [default: {CLASSIFIER_PX}]")
@click.option("--licence", default=NOT_STATED, show_default=True, help="Licence of the weights.")
@click.option("--training-data", default=NOT_STATED, show_default=True, help="What the weights were trained on.")
@click.option("--description", default="", help="What the model is for and where it fails.")
def import_(
    *,
    architecture: Importable,
    weights: Path,
    out: Path,
    labels: Path | None,
    input_px: int | None,
    licence: str,
    training_data: str,
    description: str,
) -> None:
    """Imports as the options say."""
    with exit_on_failure():
        package = import_package(
            architecture=architecture,
            weights=weights,
            out=out,
            labels=None if labels is None else _read_labels(labels),
            input_px=input_px,
            licence=licence,
            training_data=training_data,
            description=description,
        )
    card = package.card
    write_line(f"{package.folder}: {card.architecture}, {card.task}, {_size(card.labels, card.dimension)}")
    write_line(package.digest)


def _size(labels: tuple[str, ...], dimension: int) -> str:
    return f"{len(labels)} classes" if labels else f"{dimension} components"


def _read_labels(path: Path) -> list[str]:
    """Returns the names in a file, ordered by number if every line has one; prints how it reads them.

    Raises:
        StartupError: it is not text, or the lines' numbers are not those of the classes.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").rstrip().splitlines()]
    except UnicodeDecodeError as error:
        raise StartupError(f"{path}: not UTF-8 text ({error.reason}).", reason="IMPORT_LABELS") from error
    return _number_repeats(_by_number(path, lines))


def _by_number(path: Path, lines: list[str]) -> list[str]:
    """Returns the names of lines `N, name` in the order of their numbers; other lines as they are."""
    matched = [_NUMBERED.fullmatch(line) for line in lines]
    named = {int(one["number"]): one["name"] for one in matched if one is not None}
    if not lines or None in matched:
        return lines
    least = min(named)
    if least > 1 or sorted(named) != list(range(least, least + len(lines))):
        raise StartupError(
            f"{path}: numbered lines must have every number from 0 or 1 on exactly once.", reason="IMPORT_LABELS"
        )
    write_line(f"{path}: lines are `number, name`; the names are ordered by number", err=True)
    return [named[number] for number in sorted(named)]


def _number_repeats(labels: list[str]) -> list[str]:
    """Returns the labels, with its number appended to each that repeats an earlier one: ImageNet has two cranes."""
    found: list[str] = []
    for number, label in enumerate(labels):
        if label and label in labels[:number]:
            new = f"{label} ({number})"
            while new in labels or new in found:
                new += f" ({number})"
            found.append(new)
            write_line(f"`{label}` names several classes; number {number} becomes `{new}`", err=True)
        else:
            found.append(label)
    return found
