"""Checkpoints of a training run: whole or not at all, the two newest kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

import jax
import orbax.checkpoint as ocp

from twinsight_core.errors import TrainingError

_LOG = logging.getLogger(__name__)

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
            raise TrainingError(
                f"{self._folder}: the checkpoint of step {step} can't be written ({error}); {self.kept(before=step)}.",
                reason="CHECKPOINT_UNWRITABLE",
            ) from error

    def kept(self, *, before: int) -> str:
        """Returns words for what a run that ended at a step may go on from."""
        steps = [step for step in self._manager.all_steps() if step < before]
        return f"the last good checkpoint, of step {max(steps)}, is kept" if steps else "there is no checkpoint yet"

    def latest(self, like: StateT) -> StateT | None:
        """Returns the newest state that can be read; None where there is none. Newer ones that can't be are deleted.

        Args:
            like: a state of the same shapes.

        Returns:
            Arrays in the process's memory, which may be put on any devices, whichever the run was on before.

        Raises:
            TrainingError: they are of other weights, or none can be read; or the disk fails.
        """
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), like)
        failures: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._manager.restore(step, args=ocp.args.StandardRestore(shapes))
            except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
                failures[step] = error
                continue
            except OSError as error:  # it may well be whole
                raise TrainingError(
                    f"{self._folder}: the checkpoint of step {step} can't be read ({error}).",
                    reason="CHECKPOINT_UNREADABLE",
                ) from error
            for damaged, why in failures.items():
                _LOG.warning("The checkpoint of step %d can't be read: that of %d is taken (%s)", damaged, step, why)
                self._manager.delete(damaged)
            found: StateT = jax.device_get(restored)
            return found
        if failures:
            steps = " and ".join(str(step) for step in sorted(failures))
            raise TrainingError(
                f"{self._folder}: the checkpoints (step {steps}) are of other weights or can't be read; start anew: "
                "without --resume, or with --anew.",
                reason="CHECKPOINT_MISMATCH",
            ) from failures[max(failures)]
        return None

    def clear(self) -> None:
        """Deletes all of them."""
        for step in self._manager.all_steps():
            self._manager.delete(step)

    def close(self) -> None:
        """Ends orbax's threads."""
        self._manager.close()
