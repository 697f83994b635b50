"""How a run goes, told on the terminal and kept for TensorBoard."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

_LOG = logging.getLogger(__name__)


class LogProgress:
    """A line a report: step, loss, steps a second, seconds to go."""

    def __init__(self) -> None:
        self._first = self._steps = 0
        self._began_s = 0.0

    def on_start(self, step: int, steps: int) -> None:
        """Starts the clock."""
        self._first, self._steps, self._began_s = step, steps, time.monotonic()
        if step:
            _LOG.info("going on from step %d of %d", step, steps)

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
        """Moves the bar on."""
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
    """Losses and scores by step: kept in memory for the report, and written for TensorBoard.

    Args:
        folder: of TensorBoard's event files.

    Attributes:
        losses: step and whole loss.
        scores: step and validation score.
        early_end: step after which training ended early, and the step whose weights are kept; None where it did not.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))
        self.losses: list[tuple[int, float]] = []
        self.scores: list[tuple[int, float]] = []
        self.early_end: tuple[int, int] | None = None

    def on_start(self, step: int, steps: int) -> None:
        """Nothing to keep yet."""

    def on_steps(self, step: int, losses: dict[str, float]) -> None:
        """Keeps the losses."""
        self.losses.append((step, losses["loss"]))
        for name, value in losses.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def on_score(self, step: int, score: float) -> None:
        """Keeps the score."""
        self.scores.append((step, score))
        self._writer.add_scalar("validation/score", score, step)

    def on_early_end(self, step: int, best_step: int) -> None:
        """Keeps the steps."""
        self.early_end = (step, best_step)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


def _why_ended(step: int, best_step: int) -> str:
    return (
        f"no better validation for {step - best_step} steps; training ends, and the weights of step {best_step} are "
        "kept"
    )


def terminal_progress() -> LogProgress | BarProgress:
    """Returns a bar where standard error is a terminal, and lines elsewhere."""
    return BarProgress() if sys.stderr.isatty() else LogProgress()
