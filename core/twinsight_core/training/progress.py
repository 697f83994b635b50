"""A run's progress: shown on the terminal, and kept for its report and for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from twinsight_core.errors import TrainingError
from twinsight_core.host.whole_files import write_whole
from twinsight_core.training.events import Events

_LOG = logging.getLogger(__name__)


class LogProgress:
    """One line per report: step, loss, steps per second, seconds to go."""

    def __init__(self) -> None:
        self._first = self._steps = 0
        self._began_s = 0.0

    def on_start(self, step: int, steps: int) -> None:
        """Starts the clock."""
        self._first, self._steps, self._began_s = step, steps, time.monotonic()
        if step:
            _LOG.info("resuming from step %d of %d", step, steps)

    def on_steps(self, step: int, losses: dict[str, float]) -> None:
        """Logs the losses."""
        rate = (step - self._first) / max(time.monotonic() - self._began_s, 1e-9)
        _LOG.info(
            "step %d/%d  %s  %.2f steps/s  %.0f s to go",
            step,
            self._steps,
            "  ".join(f"{name} {value:.4f}" for name, value in losses.items()),
            rate,
            (self._steps - step) / rate,
        )

    def on_score(self, step: int, score: float) -> None:
        """Logs the score."""
        _LOG.info("step %d: validation %.4f", step, score)

    def on_early_end(self, step: int, best_step: int) -> None:
        """Logs why."""
        _LOG.info("step %d: %s", step, _why_ended(step, best_step))


class BarProgress:
    """A bar on the terminal with loss, score, rate and time to go."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("validation {task.fields[score]}"),
            TextColumn("{task.fields[rate]:.1f} steps/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("", total=None, loss=float("nan"), score="-", rate=0.0)
        self._first, self._began_s = 0, 0.0

    def on_start(self, step: int, steps: int) -> None:
        """Shows the bar."""
        self._first, self._began_s = step, time.monotonic()
        self._bar.start()
        self._bar.update(self._task, completed=step, total=steps)

    def on_steps(self, step: int, losses: dict[str, float]) -> None:
        """Advances the bar."""
        rate = (step - self._first) / max(time.monotonic() - self._began_s, 1e-9)
        self._bar.update(self._task, completed=step, loss=losses["loss"], rate=rate)

    def on_score(self, step: int, score: float) -> None:
        """Shows the score."""
        del step
        self._bar.update(self._task, score=f"{score:.4f}")

    def on_early_end(self, step: int, best_step: int) -> None:
        """Says why above the bar."""
        self._bar.console.print(f"step {step}: {_why_ended(step, best_step)}")

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self._bar.stop()


class History:
    """Losses, rates and scores by step: kept for the report, even across interruptions, and written for TensorBoard.

    A file beside the checkpoints has one line of JSON per report, in order. When a run resumes, reports after its
    checkpoint are dropped, since they will be made again.

    Args:
        folder: of TensorBoard's event files.
        kept: the file; with None a resumed run only has the history since it resumed.

    Attributes:
        losses: step and total loss.
        rates: step and steps per second since the run started or resumed.
        scores: step and validation score.
        early_end: step after which training stopped early, and the step whose weights are kept; None if it did not.
    """

    def __init__(self, folder: Path, kept: Path | None = None) -> None:
        self._events = Events(folder)
        self._kept = kept
        self._first, self._began_s = 0, 0.0
        self.losses: list[tuple[int, float]] = []
        self.rates: list[tuple[int, float]] = []
        self.scores: list[tuple[int, float]] = []
        self.early_end: tuple[int, int] | None = None

    def on_start(self, step: int, steps: int) -> None:
        """Loads the history so far, and starts the clock."""
        del steps
        self._first, self._began_s = step, time.monotonic()
        if self._kept is None:
            return
        before = [(reported, line) for reported, line in _reports(self._kept) if reported["step"] <= step]
        for reported, _ in before:
            self._remember(reported)
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._kept, b"".join(line + b"\n" for _, line in before))

    def on_steps(self, step: int, losses: dict[str, float]) -> None:
        """Keeps the losses and the rate."""
        rate = (step - self._first) / max(time.monotonic() - self._began_s, 1e-9)
        self._report({"step": step, "loss": losses["loss"], "steps_per_s": rate})
        self._events.add({f"train/{name}": value for name, value in losses.items()}, step)

    def on_score(self, step: int, score: float) -> None:
        """Keeps the score."""
        self._report({"step": step, "validation": score})
        self._events.add({"validation/score": score}, step)

    def on_early_end(self, step: int, best_step: int) -> None:
        """Keeps the steps."""
        self.early_end = (step, best_step)

    def close(self) -> None:
        """Writes what is left."""
        self._events.close()

    def _report(self, reported: dict[str, float]) -> None:
        self._remember(reported)
        if self._kept is not None:
            try:
                with self._kept.open("ab") as file:
                    file.write(json.dumps(reported).encode() + b"\n")
            except OSError as error:
                raise TrainingError(
                    f"{self._kept}: can't write the history ({error}); checkpoints are kept.",
                    reason="HISTORY_UNWRITABLE",
                ) from error

    def _remember(self, reported: dict[str, float]) -> None:
        step = int(reported["step"])
        for name, values in (("loss", self.losses), ("steps_per_s", self.rates), ("validation", self.scores)):
            if name in reported:
                values.append((step, reported[name]))


def _reports(kept: Path) -> Iterator[tuple[dict[str, float], bytes]]:
    """Yields the reports of a history's file, each with its line; none if there is no file."""
    for line in kept.read_bytes().splitlines() if kept.exists() else ():
        with contextlib.suppress(ValueError):  # a line that a kill truncated
            yield json.loads(line), line


def _why_ended(step: int, best_step: int) -> str:
    return (
        f"no better validation for {step - best_step} steps; stopping early and keeping the weights of step {best_step}"
    )


def terminal_progress() -> LogProgress | BarProgress:
    """Returns a bar if standard error is a terminal, otherwise lines."""
    return BarProgress() if sys.stderr.isatty() else LogProgress()
