"""What the core's commands share: the training options, and how a command fails."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec

import click
from click.core import ParameterSource

from twinsight_core.commands.failing import exit_on_failure
from twinsight_core.commands.folders import package_option
from twinsight_core.commands.numbers import FiniteRange
from twinsight_core.commands.output import LineFormatter, printable
from twinsight_core.commands.paths import PathType
from twinsight_core.packages import find_package
from twinsight_core.training.augment import PRESETS
from twinsight_core.training.distillation import Distillation
from twinsight_core.training.runs import BACKBONES, NO_START, Run

P = ParamSpec("P")
_Decorator = Callable[[Callable[..., None]], Callable[..., None]]

_FIELDS = frozenset(field.name for field in dataclasses.fields(Run))
_EXCLUDE = click.option(
    "--exclude",
    type=PathType(dir_okay=False, exists=True),
    help="File of class names to leave out of everything, one per line (those of a test set, say).",
)

_FLAWED_BOXES = " A flawed box becomes a region to ignore; if it covers nothing, its picture is left out."


def told(command: Callable[P, None]) -> Callable[P, None]:
    """Makes a command log to standard error, and end with a message and exit status 1 if the user can fix its error."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        lines = logging.StreamHandler()
        lines.setFormatter(LineFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        logging.basicConfig(handlers=[lines])
        logging.getLogger("twinsight_core").setLevel(logging.INFO)
        with exit_on_failure():
            command(*args, **kwargs)

    return run


def _multiple_of_8(context: click.Context, parameter: click.Parameter, value: int) -> int:
    del context, parameter
    if value % 8:
        raise click.BadParameter(f"{value} is not a multiple of 8.")
    return value


def given(name: str) -> bool:
    """Returns whether an option of the running command was given rather than left at its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)


def refuse_options(names: Sequence[str], *, why: str) -> None:
    """Rejects options that were given and would have no effect.

    Args:
        names: of the command's parameters.
        why: end of the message: what they don't combine with, and why.

    Raises:
        click.UsageError: one of them was given.
    """
    for name in names:
        if given(name):
            raise click.UsageError(f"--{name.replace('_', '-')} must not be given with {printable(why)}.")


def _teacher_options(temperature: float) -> list[_Decorator]:
    return [
        click.option(
            "--teacher",
            help="Model of the same kind to learn from in addition to the labels (knowledge distillation): a shipped "
            "model or a package folder. It sees the same views, scaled to its input.",
        ),
        click.option(
            "--distillation-weight",
            type=FiniteRange(min=0, max=1, min_open=True),
            default=0.5,
            show_default=True,
            help="The teacher's share of the loss; the labels get the rest.",
        ),
        click.option(
            "--distillation-temperature",
            type=FiniteRange(min=0, min_open=True),
            default=temperature,
            show_default=True,
            help="Divisor of the teacher's and the model's outputs; higher is softer.",
        ),
    ]


def _distillation(values: dict[str, object]) -> Distillation | None:
    """Removes the values of `_teacher_options` from a command's and returns them as one setting.

    Raises:
        click.UsageError: the other options were given without a teacher.
        PackageError: there is no such model.
    """
    teacher, weight, temperature = (
        values.pop(name) for name in ("teacher", "distillation_weight", "distillation_temperature")
    )
    if teacher is None:
        for name in ("distillation_weight", "distillation_temperature"):
            if given(name):
                raise click.UsageError(f"--{name.replace('_', '-')} requires --teacher.")
        return None
    # click has checked each value against its option's type.
    return Distillation(find_package(str(teacher)), weight, temperature)  # type: ignore[arg-type]


def _run(values: dict[str, object], *, frozen_blocks: int) -> Run:
    """Returns the run that a command's values describe.

    Args:
        values: by the options' names, including the command's own options.
        frozen_blocks: default for a run that starts from a model.

    Raises:
        click.UsageError: blocks with random weights would be frozen, or both --resume and --anew were given.
    """
    if values["resume"] and values["anew"]:
        raise click.UsageError("--anew must not be given with --resume: a run is either resumed or started over.")
    common = {"exclude": None} | {name: value for name, value in values.items() if name in _FIELDS}
    drawn = common["start"] == NO_START
    if drawn and common["frozen_blocks"]:
        raise click.UsageError(f"--frozen-blocks must be 0 with --start {NO_START}: they would stay random.")
    if common["frozen_blocks"] is None:
        common["frozen_blocks"] = 0 if drawn else frozen_blocks
    return Run(**common)  # type: ignore[arg-type]  # click has checked each value against its option's type


def run_options(
    *,
    size: int,
    steps: int,
    learning_rate: float,
    start: str,
    frozen_blocks: int,
    augmentations: tuple[str, ...] = tuple(PRESETS),
    class_folders: bool = True,
    distillation_temperature: float | None = None,
) -> Callable[[Callable[Concatenate[Run, P], None]], Callable[..., None]]:
    """Returns a decorator that adds the options of every training run, passed as one `Run` before a command's own.

    Args:
        size: default of `--size`.
        steps: default of `--steps`.
        learning_rate: default of `--learning-rate`.
        start: default of `--start`.
        frozen_blocks: default of `--frozen-blocks`.
        augmentations: choices of `--augmentation`; the first is the default.
        class_folders: whether the data is class folders, some of which can be left out.
        distillation_temperature: default of `--distillation-temperature`; None for a command without a teacher.
    """
    options: list[_Decorator] = [
        click.option(
            "--data",
            type=PathType(),
            required=True,
            help="Folder or zip with the pictures"
            + (". Of data in parts (train/, val/, test/) name one: DIR/train." if class_folders else "."),
        ),
        package_option("Folder of the model package to write."),
        click.option(
            "--start",
            default=start,
            show_default=True,
            help=f"Model whose weights training starts from: a shipped model, a package folder, or `{NO_START}`.",
        ),
        click.option(
            "--backbone",
            type=click.Choice(list(BACKBONES)),
            default="mobilenet",
            show_default=True,
            help="Backbone network; must match that of --start.",
        ),
        click.option(
            "--size",
            type=click.IntRange(16, 1024),
            callback=_multiple_of_8,
            default=size,
            show_default=True,
            help="Side of the input in pixels, a multiple of 8.",
        ),
        click.option(
            "--augmentation",
            type=click.Choice(augmentations),
            default=augmentations[0],
            show_default=True,
            help="Kind of random augmentation.",
        ),
        click.option("--steps", type=click.IntRange(min=1), default=steps, show_default=True, help="Training steps."),
        click.option(
            "--learning-rate",
            type=FiniteRange(min=0, min_open=True),
            default=learning_rate,
            show_default=True,
            help="Peak learning rate.",
        ),
        click.option(
            "--frozen-blocks",
            type=click.IntRange(0, 64),
            help="First blocks of the network to freeze: faster, and safer with few pictures. "
            f"[default: {frozen_blocks}; 0 for --start {NO_START}]",
        ),
        # A run validates at most 20 times, and scores still rise late while the learning rate falls. By default it is
        # never cut short, so that the recipes keep their results.
        click.option(
            "--patience",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Stop after this many validations without a better score; 0 never stops early. The best weights are "
            "kept either way.",
        ),
        click.option(
            "--skip-bad",
            is_flag=True,
            help=f"Skip what can't be read instead of stopping.{'' if class_folders else _FLAWED_BOXES}",
        ),
        click.option(
            "--report-pictures/--no-report-pictures",
            default=True,
            show_default=True,
            help="Show the worst mistakes in the package's report.html: held-out pictures with the names of their "
            "folders or files.",
        ),
        click.option("--resume", is_flag=True, help="Resume from the last checkpoint of the same run."),
        click.option(
            "--anew",
            is_flag=True,
            help="Start over if a run to this folder is unfinished; its checkpoints are deleted.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0, 2**32 - 1),
            default=0,
            show_default=True,
            help="Random seed.",
        ),
        *([_EXCLUDE] if class_folders else []),
        *([] if distillation_temperature is None else _teacher_options(distillation_temperature)),
        click.option("--description", default="", help="For the card: what the model is for and where it fails."),
        click.option(
            "--licence", default="not stated", show_default=True, help="For the card: licence of the weights."
        ),
        click.option("--training-data", default="", help="For the card: the data and its terms."),
    ]

    def decorate(command: Callable[Concatenate[Run, P], None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_run(**values: object) -> None:
            distillation = None if distillation_temperature is None else _distillation(values)
            run = _run(values | {"distillation": distillation}, frozen_blocks=frozen_blocks)
            own = {name: value for name, value in values.items() if name not in _FIELDS}
            # click has checked each value against its option's type.
            command(run, **own)  # type: ignore[arg-type,call-arg]

        decorated: Callable[..., None] = told(with_run)
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
