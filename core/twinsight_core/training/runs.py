"""One training run as the command line describes it: its data, its first weights, and the files it leaves."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from twinsight_core.errors import TrainingError
from twinsight_core.host.whole_files import write_whole
from twinsight_core.images import Preprocessing
from twinsight_core.models.configs.architectures import ARCHITECTURES, Config
from twinsight_core.models.configs.backbones import BackboneConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.precision import best_precision
from twinsight_core.packages import ModelCard, ModelPackage, check_replaceable, find_package
from twinsight_core.training.copies import tell_copies
from twinsight_core.training.data import LabelledImages, read_class_folders, tell_skipped
from twinsight_core.training.distillation import Distillation
from twinsight_core.training.files import composed
from twinsight_core.training.loop import LoopConfig, Watcher
from twinsight_core.training.progress import BarProgress, History, terminal_progress

_LOG = logging.getLogger(__name__)
_START_OVER = "Start over, with --anew instead of --resume; that deletes its checkpoints."

BACKBONES: dict[str, BackboneConfig] = {
    "mobilenet": MobileNetConfig(width_multiplier=0.75),
    "resnet": ResNetConfig(depths=(2, 2, 2, 2), widths=(64, 128, 256, 512)),
    "glyphs": ResNetConfig(
        depths=(2, 2, 3, 1),
        widths=(32, 64, 128, 256),
        stem="strided",
        colour="grey",
        # Of Omniglot's pixels: thin black strokes on white.
        mean=(0.92, 0.92, 0.92),
        std=(0.25, 0.25, 0.25),
    ),
}
"""Networks by the name that `--backbone` takes. "mobilenet" is the fastest on a CPU for photographs."""

_DECIDING = ("backbone", "size", "augmentation", "steps", "learning_rate", "frozen_blocks", "seed")
"""Fields that the steps depend on."""

_RATE, _RATES = "learning_rate", "earlier learning rates"
"""In a run's record: the one field that a run may be resumed with another value of, and which values it had before."""

_NAMED = 50

NO_START = "none"
"""What `--start` takes for weights drawn at random."""


@dataclass(frozen=True)
class Run:
    """The options that all kinds of training share.

    Attributes:
        data: the pictures.
        out: the package's folder, an absolute path: its name is the package's.
        start: model whose weights training starts from; `none` for random weights.
        backbone: name in `BACKBONES`.
        size: side of the input in pixels.
        augmentation: name in `PRESETS`.
        steps: updates of the weights.
        learning_rate: the peak.
        frozen_blocks: blocks of the backbone that are not trained.
        skip_bad: leave out pictures that can't be read.
        exclude: file with the names of classes to leave out, one per line; None for none.
        resume: continue from the last checkpoint.
        anew: delete the checkpoints of a run to the same folder that is unfinished.
        seed: of everything random.
        description: for the card.
        licence: for the card.
        training_data: for the card.
        distillation: model to learn from in addition to the labels, and how much; None for none.
        patience: validations without a better score after which training stops; 0 never stops early. No step depends
            on it, so a resumed run may have another.
        report_pictures: whether the report shows the worst mistakes, with the names of their folders or files.
    """

    data: Path
    out: Path
    start: str
    backbone: str
    size: int
    augmentation: str
    steps: int
    learning_rate: float
    frozen_blocks: int
    skip_bad: bool
    exclude: Path | None
    resume: bool
    seed: int
    description: str
    licence: str
    training_data: str
    distillation: Distillation | None = None
    patience: int = 0
    report_pictures: bool = True
    anew: bool = False

    @property
    def work(self) -> Path:
        """Folder of the files that a run leaves beside its package, for its owner only."""
        return self.out.parent / f".{self.out.name}.training"

    @property
    def cache(self) -> Path:
        """Folder of the decoded pictures during training."""
        return self.work / "cache"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.work / "checkpoints"

    def check(self) -> ModelPackage | None:
        """Returns the package to start from, None for none; called before anything slow.

        Raises:
            PackageError: `out` holds something other than a package, or `start` does not exist.
        """
        check_replaceable(self.out)
        return None if self.start == NO_START else find_package(self.start)

    def begin(
        self,
        options: Mapping[str, object],
        *,
        data: Mapping[str, str],
        network: Config,
        start: ModelPackage | None,
    ) -> None:
        """Records what this run is; if it resumes, checks that it is the same run.

        Call it after all other checks: unless this run resumes, it deletes the checkpoints of the previous one. It does
        so before replacing the record, so that a record never stands beside another run's checkpoints.

        Args:
            options: the command's own.
            data: digests of the data by name; see `digests`.
            network: what is trained.
            start: the package that it starts from.

        Raises:
            TrainingError: the run to resume had other options, data or first weights, another network or teacher, or
                its record can't be read. Or a run is unfinished, and this one neither resumes it nor starts over.
        """
        mine = {name: str(getattr(self, name)) for name in _DECIDING} | {
            name: str(value) for name, value in options.items()
        }
        mine |= data
        mine["network"] = json.dumps(network.to_json(), sort_keys=True)
        mine["precision"] = best_precision()
        mine["first weights"] = start.digest if start else NO_START
        if (how := self.distillation) is not None:
            mine |= {
                "teacher": how.teacher.digest,
                "distillation weight": str(how.weight),
                "distillation temperature": str(how.temperature),
            }
        self.work.mkdir(0o700, parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # another's, or a disk that knows no permissions
            self.work.chmod(0o700)
        before = self._recorded() if self.resume else None
        if before is not None:
            changed, forbidden = _changed(before, mine)
            if forbidden:
                raise TrainingError(
                    f"The run in {self.work} can't be resumed: these differ: {', '.join(forbidden)}. {_START_OVER}",
                    reason="RUN_MISMATCH",
                )
            for name in changed:
                _LOG.warning("resuming with %s %s; it was %s", name, mine[name], before[name])
            self._finished.unlink(missing_ok=True)
            if changed:
                rates = [before[_RATES]] if _RATES in before else []
                rates += [before[_RATE]] if _RATE in changed else []
                write_whole(self._record, _json(mine | ({_RATES: ", then ".join(rates)} if rates else {})))
            return
        self._check_unfinished(mine)
        _discard(self.checkpoints)
        if self.events.exists():
            shutil.rmtree(self.events)  # TensorBoard would draw them into this run's curves
        self._finished.unlink(missing_ok=True)
        write_whole(self._record, _json(mine))

    def end(self) -> None:
        """Records that the package is written: this run need not be resumed, and its decoded pictures are deleted.

        A process that has them mapped keeps them.
        """
        self._finished.touch()
        try:
            shutil.rmtree(self.cache)
        except FileNotFoundError:
            pass  # it decoded them into memory
        except OSError as error:
            _LOG.warning("can't delete the decoded pictures in %s: %s", self.cache, error)

    def _check_unfinished(self, mine: Mapping[str, str]) -> None:
        """Rejects deleting the checkpoints of an unfinished run.

        Raises:
            TrainingError: a run is unfinished, this one or another.
        """
        kept = self.checkpoints.iterdir() if self.checkpoints.exists() else ()
        steps = [int(one.name) for one in kept if one.name.isdecimal()]
        if self.anew or not steps or self._finished.exists():
            return
        differ: list[str] | None = None
        with contextlib.suppress(TrainingError):  # of a record that can't be read, nothing is known
            before = self._recorded()
            differ = None if before is None else _changed(before, mine)[1]
        if differ == []:
            raise TrainingError(
                f"{self.work} holds this run, unfinished after {max(steps)} of {self.steps} steps. Continue it with "
                "--resume, or delete its checkpoints with --anew.",
                reason="RUN_UNFINISHED",
            )
        which = f"another run (these differ: {', '.join(differ)})" if differ else "a run whose record can't be read"
        raise TrainingError(
            f"{self.work} holds {which}, unfinished after step {max(steps)}. Delete its checkpoints with --anew, or "
            "train to another folder.",
            reason="RUN_UNFINISHED",
        )

    @property
    def events(self) -> Path:
        """Folder of TensorBoard's events."""
        return self.work / "events"

    @property
    def _finished(self) -> Path:
        return self.work / "finished"

    @property
    def _record(self) -> Path:
        return self.work / "run.json"

    def _recorded(self) -> dict[str, str] | None:
        """Returns the record of the run that left checkpoints; None if there is none."""
        if not self._record.exists() and not self.checkpoints.exists():
            return None
        try:
            before: dict[str, str] = json.loads(self._record.read_text("utf-8"))
            if not isinstance(before, dict):
                raise ValueError("no JSON object")
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"The run in {self.work} can't be resumed: its record {self._record.name} can't be read ({error}). "
                f"{_START_OVER}",
                reason="RUN_MISMATCH",
            ) from error
        if "precision" not in before:
            raise TrainingError(
                f"The run in {self.work} can't be resumed: it was started by an earlier version of twinsight. Use that "
                "version. Or start over, with --anew instead of --resume; that deletes its checkpoints.",
                reason="RUN_MISMATCH",
            )
        return before

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures become the input."""
        return Preprocessing(height_px=self.size, width_px=self.size)

    @property
    def loop(self) -> LoopConfig:
        """How long and how fast."""
        every = max(20, self.steps // 20)
        return LoopConfig(
            steps=self.steps,
            learning_rate=self.learning_rate,
            warmup_steps=max(10, self.steps // 20),
            average=min(0.998, 1 - 10 / max(self.steps, 20)),
            checkpoint_every=every,
            patience=self.patience,
            seed=self.seed,
        )

    def pictures(self) -> LabelledImages:
        """Reads the pictures.

        Raises:
            TrainingError: they can't be read, come in parts of their own, or a class to leave out does not exist.
        """
        read = read_class_folders(
            self.data,
            preprocessing=self.preprocessing,
            cache_dir=self.cache,
            skip_bad=self.skip_bad,
            one_part=True,
        )
        tell_skipped(read.skipped)
        if self.exclude is not None:
            read = _without(read, self.exclude)
        _LOG.info("%d pictures of %d classes", len(read), len(read.classes))
        tell_copies(read)
        return read

    def card(self, network: Config, recipe: str) -> ModelCard:
        """Returns the package's card, without labels and scores."""
        with contextlib.suppress(TrainingError):  # of a record that can't be read, nothing is known
            if rates := (self._recorded() or {}).get(_RATES):
                recipe += f" (resumed; the learning rate before was {rates})"
        return ModelCard(
            architecture=next(name for name, kind in ARCHITECTURES.items() if isinstance(network, kind)),
            config=network,
            task=network.TASK,
            preprocessing=self.preprocessing,
            dimension=network.dimension if isinstance(network, SiameseConfig) else 0,
            licence=self.licence,
            training_data=self.training_data or f"Pictures from `{self.data.name}`.",
            description=self.description,
            recipe=recipe,
        )


class Watching:
    """Progress on the terminal, and the history for the report."""

    def __init__(self, run: Run) -> None:
        self._progress = terminal_progress()
        self.history = History(run.events, run.work / "history.jsonl")

    @property
    def watchers(self) -> tuple[Watcher, ...]:
        """Both."""
        return (self._progress, self.history)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if isinstance(self._progress, BarProgress):
            self._progress.close()
        self.history.close()


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Returns what differs between two runs' records, and which of these differences prevent resuming."""
    changed = sorted(name for name in (now.keys() | before.keys()) - {_RATES} if now.get(name) != before.get(name))
    return changed, [name for name in changed if not _may_change(name, before.get(name, ""), now.get(name, ""))]


def _may_change(name: str, before: str, now: str) -> bool:
    """Returns whether a run may be resumed with another value of a recorded field.

    A lower learning rate can rescue a run that diverged; the precision is that of the current device.
    """
    return name == "precision" or (name == _RATE and float(now) < float(before))


def _json(record: Mapping[str, str]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def _discard(checkpoints: Path) -> None:
    """Deletes checkpoints; renames them first, so that none is ever half deleted."""
    discarded = checkpoints.with_name(f".{checkpoints.name}-discarded")
    if discarded.exists():  # a deletion was interrupted
        shutil.rmtree(discarded)
    if checkpoints.exists():
        checkpoints.rename(discarded)
        shutil.rmtree(discarded)


def _without(read: LabelledImages, exclude: Path) -> LabelledImages:
    """Returns the pictures of the classes that a file does not name."""
    try:
        names = {composed(line.strip()) for line in exclude.read_text("utf-8-sig").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{exclude}: can't be read as text ({error}).", reason="EXCLUDE_UNREADABLE") from error
    unknown = sorted(names - set(read.classes))
    if unknown:
        shown = ", ".join(unknown[:_NAMED]) + (f" and {len(unknown) - _NAMED} more" if unknown[_NAMED:] else "")
        raise TrainingError(f"{exclude}: these classes are not in the data: {shown}.", reason="CLASS_UNKNOWN")
    return read.of_classes([name for name in read.classes if name not in names])
