"""What the commands of the core share: the options of training, and how they fail."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec

import click
from click.core import ParameterSource

from twinsight_core.commands.failing import exit_on_failure
from twinsight_core.commands.folders import package_option
from twinsight_core.commands.output import LineFormatter, printable
from twinsight_core.packages import find_package
from twinsight_core.training.augment import PRESETS
from twinsight_core.training.distillation import Distillation
from twinsight_core.training.runs import BACKBONES, NO_START, Run

P = ParamSpec("P")
_Decorator = Callable[[Callable[..., None]], Callable[..., None]]

_FIELDS = frozenset(field.name for field in dataclasses.fields(Run))
_EXCLUDE = click.option(
    "--exclude",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="File with the classes to leave out of everything, one name a line: those of a test set, say.",
)

_FLAWED_BOXES = (
    " A box with a flaw is a region that does not count then; where it covers nothing, its picture is left out."
)


def told(command: Callable[P, None]) -> Callable[P, None]:
    """Makes a command end with a message and exit status 1 where it fails for a reason that is the user's to mend."""

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
        raise click.BadParameter(f"{value} is no multiple of 8.")
    return value


def given(name: str) -> bool:
    """Returns whether an option of the running command was given, and not left to its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)


def refuse_options(names: Sequence[str], *, why: str) -> None:
    """Refuses options that were given and would be without effect.

    Args:
        names: of the command's parameters.
        why: for the message: with what they have none, and why.

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
            help="Model of the same kind to learn from beside the labels (knowledge distillation): a shipped one, or a "
            "package's folder. It sees the same views, scaled to its input.",
        ),
        click.option(
            "--distillation-weight",
            type=click.FloatRange(min=0, max=1, min_open=True),
            default=0.5,
            show_default=True,
            help="The teacher's share of the loss; the rest is the labels'.",
        ),
        click.option(
            "--distillation-temperature",
            type=click.FloatRange(min=0, min_open=True),
            default=temperature,
            show_default=True,
            help="What the teacher's and the model's answers are divided by: the higher, the softer.",
        ),
    ]


def _distillation(values: dict[str, object]) -> Distillation | None:
    """Takes what `_teacher_options` gave out of a command's values.

    Raises:
        click.UsageError: there is no teacher that the other options would mean something to.
        PackageError: there is no such model.
    """
    teacher, weight, temperature = (
        values.pop(name) for name in ("teacher", "distillation_weight", "distillation_temperature")
    )
    if teacher is None:
        for name in ("distillation_weight", "distillation_temperature"):
            if given(name):
                raise click.UsageError(f"--{name.replace('_', '-')} must be given with --teacher only.")
        return None
    # click has checked each value against its option's type.
    return Distillation(find_package(str(teacher)), weight, temperature)  # type: ignore[arg-type]


def _run(values: dict[str, object], *, frozen_blocks: int) -> Run:
    """Returns the run that a command's values say.

    Args:
        values: by the options' names, those of the command's own among them.
        frozen_blocks: of a run that starts from a model, where none are said.

    Raises:
        click.UsageError: blocks of random weights would never change, or a run is both to go on and to begin anew.
    """
    if values["resume"] and values["anew"]:
        raise click.UsageError("--anew must not be given with --resume: a run is gone on with, or begun anew.")
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
    """Returns a decorator that gives a command the options of every training run, as one `Run` in front of its own.

    Args:
        size: default of `--size`.
        steps: default of `--steps`.
        learning_rate: default of `--learning-rate`.
        start: default of `--start`.
        frozen_blocks: default of `--frozen-blocks`.
        augmentations: what `--augmentation` may be; the first is its default.
        class_folders: whether the data are class folders, some of which can be left out.
        distillation_temperature: default of `--distillation-temperature`; None where nothing can be learned from a
            teacher.
    """
    options: list[_Decorator] = [
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            required=True,
            help="Folder or zip with the pictures"
            + ("; of data in parts (train/, val/, test/) one of them: DIR/train." if class_folders else "."),
        ),
        package_option("Folder of the model package to write."),
        click.option(
            "--start",
            default=start,
            show_default=True,
            help=f"Model whose weights training starts from: a shipped one, a package's folder, or `{NO_START}`.",
        ),
        click.option(
            "--backbone",
            type=click.Choice(list(BACKBONES)),
            default="mobilenet",
            show_default=True,
            help="The network below; must be that of --start.",
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
            help="Kind of the random views.",
        ),
        click.option("--steps", type=click.IntRange(min=1), default=steps, show_default=True, help="Training steps."),
        click.option(
            "--learning-rate",
            type=click.FloatRange(min=0, min_open=True),
            default=learning_rate,
            show_default=True,
            help="Highest learning rate.",
        ),
        click.option(
            "--frozen-blocks",
            type=click.IntRange(0, 64),
            help="Blocks at the network's start that stay as they are: quicker, and safer with few pictures. "
            f"[default: {frozen_blocks}; 0 for --start {NO_START}]",
        ),
        # A run validates 20 times at most, and while its learning rate falls scores still rise late: by default it is
        # never cut short, and the recipes give what they gave.
        click.option(
            "--patience",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Validations without a better score after which training ends; 0: it never ends early. The best "
            "weights are kept either way.",
        ),
        click.option(
            "--skip-bad",
            is_flag=True,
            help=f"Leave out what can't be read instead of stopping.{'' if class_folders else _FLAWED_BOXES}",
        ),
        click.option(
            "--report-pictures/--no-report-pictures",
            default=True,
            show_default=True,
            help="Show the worst mistakes in the package's report.html: held-out pictures, and the names of their "
            "folders or files.",
        ),
        click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the same run."),
        click.option(
            "--anew", is_flag=True, help="Begin anew where the same run is unfinished: its checkpoints are deleted."
        ),
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="Number that all chance follows from.",
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
