"""Checkpoints of a training run: written completely or not at all, with the two newest kept."""

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
    """The checkpoints in one folder. Orbax writes each beside the others and renames it when it is complete.

    Args:
        folder: created if absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=True, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, step: int, state: object) -> None:
        """Writes a state, a pytree of arrays.

        Raises:
            TrainingError: it can't be written, on a full disk say; the checkpoints before it are kept.
        """
        try:
            self._manager.save(step, args=ocp.args.StandardSave(state), force=True)
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"{self._folder}: can't write the checkpoint of step {step} ({error}); {self.kept(before=step)}.",
                reason="CHECKPOINT_UNWRITABLE",
            ) from error

    def kept(self, *, before: int) -> str:
        """Returns words for what a run that ended at a step can resume from."""
        steps = [step for step in self._manager.all_steps() if step < before]
        return f"the last good checkpoint, of step {max(steps)}, is kept" if steps else "there is no checkpoint yet"

    def latest(self, like: StateT) -> StateT | None:
        """Returns the newest readable state, or None if there is no checkpoint; deletes newer, unreadable ones.

        Args:
            like: a state of the same shapes.

        Returns:
            Arrays in host memory, which can be moved to any devices, whichever the run used before.

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
            except OSError as error:  # it may well be intact
                raise TrainingError(
                    f"{self._folder}: can't read the checkpoint of step {step} ({error}).",
                    reason="CHECKPOINT_UNREADABLE",
                ) from error
            for damaged, why in failures.items():
                _LOG.warning("can't read the checkpoint of step %d; using that of step %d (%s)", damaged, step, why)
                self._manager.delete(damaged)
            found: StateT = jax.device_get(restored)
            return found
        if failures:
            steps = " and ".join(str(step) for step in sorted(failures))
            raise TrainingError(
                f"{self._folder}: the checkpoints (step {steps}) are of other weights or can't be read; start over "
                "without --resume, or with --anew.",
                reason="CHECKPOINT_MISMATCH",
            ) from failures[max(failures)]
        return None

    def clear(self) -> None:
        """Deletes all of them."""
        for step in self._manager.all_steps():
            self._manager.delete(step)

    def close(self) -> None:
        """Stops Orbax's threads."""
        self._manager.close()
