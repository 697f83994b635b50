"""Checkpoints of a training run: whole or not at all, the two newest kept."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import jax
import orbax.checkpoint as ocp

from twinsight_core.errors import TrainingError

KEPT = 2

StateT = TypeVar("StateT")


class Checkpoints:
    """The checkpoints in one folder. Orbax writes each beside the others and renames it when it is whole.

    Args:
        folder: made where absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, step: int, state: object) -> None:
        """Writes a state, a pytree of arrays.

        Raises:
            TrainingError: it can't be written, on a full disk say; the checkpoints before it stay.
        """
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            kept = self._manager.latest_step()
            last = "there is none before it" if kept in {None, step} else f"the last good one is of step {kept}"
            raise TrainingError(
                f"{self._folder}: the checkpoint of step {step} can't be written ({error}); {last}.",
                reason="CHECKPOINT_UNWRITABLE",
            ) from error

    def latest(self, like: StateT) -> StateT | None:
        """Returns the newest state; None where there is none.

        Args:
            like: a state of the same shapes.

        Raises:
            TrainingError: it is of other weights, or can't be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
        try:
            restored: StateT = self._manager.restore(  # pyright: ignore[reportAssignmentType]  # as `shapes` is
                step, args=ocp.args.StandardRestore(shapes)
            )
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise TrainingError(
                f"{self._folder}: the checkpoint is of other weights or can't be read; start without --resume.",
                reason="CHECKPOINT_MISMATCH",
            ) from error
        return restored

    def clear(self) -> None:
        """Deletes all of them."""
        for step in self._manager.all_steps():
            self._manager.delete(step)

    def close(self) -> None:
        """Ends orbax's threads."""
        self._manager.close()
