"""The training loop: one jitted step, a running average of the weights, checkpoints to go on from.

1. The batch of a step is a function of the step's number alone, and so is its random key.
2. The jitted step computes the loss and its gradient and updates the weights, the optimiser and the running average.
3. Every so often all of that is written to one file, whole or not at all; a run that finds the file goes on from it and
   ends with the same weights as a run that was never interrupted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

_LOG = logging.getLogger(__name__)

Params = dict[str, jax.Array]
"""The trained weights by name, float32."""
Batch = TypeVar("Batch")
"""Pytree of arrays."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast.

    Attributes:
        steps: updates of the weights.
        learning_rate: highest rate, reached after the warm-up; it falls to 0 along a half cosine.
        warmup_steps: steps over which the rate rises from 0.
        weight_decay: AdamW's, on weights with two axes or more.
        gradient_norm: longest gradient; longer ones are scaled down.
        average: decay of the running average of the weights, 0..1.
        checkpoint_every: steps between checkpoints.
        report_every: steps between lines of progress.
        seed: of the random keys.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = 50
    weight_decay: float = 1e-4
    gradient_norm: float = 1.0
    average: float = 0.995
    checkpoint_every: int = 100
    report_every: int = 10
    seed: int = 0


@dataclass(frozen=True)
class LoopState:
    """All that the next step depends on.

    Attributes:
        step: updates made so far, scalar int32.
        params: the weights.
        average: their running average, the result of training.
        optimiser: optax's state.
    """

    step: jax.Array
    params: Params
    average: Params
    optimiser: optax.OptState


jax.tree_util.register_dataclass(LoopState)


def train(
    params: Params,
    *,
    loss: Callable[[Params, Batch, jax.Array], jax.Array],
    batch: Callable[[int], Batch],
    config: LoopConfig,
    checkpoint: Path,
    resume: bool = False,
    at_checkpoint: Callable[[int, Params], None] | None = None,
) -> Params:
    """Returns the running average of the weights after `config.steps` steps.

    Args:
        params: the first weights.
        loss: weights, batch and random key -> scalar; pure, is jitted here.
        batch: the batch of a step, of equal shapes at every step.
        config: how long and how fast.
        checkpoint: the file to write checkpoints to.
        resume: go on from `checkpoint` where it exists.
        at_checkpoint: called with the step and the running average after each checkpoint but the last.

    Raises:
        ValueError: the checkpoint is not of these weights.
        FloatingPointError: the loss is no longer a number.
    """
    optimiser = _optimiser(config)
    state = LoopState(step=jnp.zeros((), jnp.int32), params=params, average=params, optimiser=optimiser.init(params))
    if resume and checkpoint.exists():
        state = load_checkpoint(checkpoint, state)
        _LOG.info("going on from step %d of %d", int(state.step), config.steps)
    root = jax.random.key(config.seed)

    @jax.jit
    def update(state: LoopState, batch: Batch) -> tuple[LoopState, jax.Array]:
        key = jax.random.fold_in(root, state.step)
        value, gradient = jax.value_and_grad(loss)(state.params, batch, key)
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
        params: Params = jax.tree.map(jnp.add, state.params, updates)
        # The average of few steps would still be of the first weights: it starts with a shorter memory.
        decay = jnp.minimum(config.average, (1.0 + state.step) / (10.0 + state.step))
        average: Params = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.average, params)
        return LoopState(step=state.step + 1, params=params, average=average, optimiser=optimiser_state), value

    first, began, losses = int(state.step), time.monotonic(), []
    for step in range(first, config.steps):
        state, value = update(state, batch(step))
        losses.append(value)
        done = step + 1
        if done % config.report_every == 0 or done == config.steps:
            mean = float(np.mean(jax.device_get(losses)))
            if not np.isfinite(mean):
                raise FloatingPointError(f"the loss is {mean} near step {done}.")
            rate = (done - first) / (time.monotonic() - began)
            _LOG.info(
                "step %d/%d  loss %.4f  %.2f steps/s  %.0f s to go",
                done, config.steps, mean, rate, (config.steps - done) / rate,
            )  # fmt: skip
            losses = []
        if done % config.checkpoint_every == 0 or done == config.steps:
            save_checkpoint(checkpoint, state)
            if at_checkpoint is not None and done < config.steps:
                at_checkpoint(done, state.average)
    return state.average


def save_checkpoint(path: Path, state: LoopState) -> None:
    """Writes the state to one safetensors file, whole or not at all."""
    leaves = {name: np.asarray(leaf) for name, leaf in _named_leaves(state).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(safetensors.numpy.save(leaves))
    partial.replace(path)


def load_checkpoint(path: Path, like: LoopState) -> LoopState:
    """Returns the state that was written to a file.

    Args:
        path: the file.
        like: a state of the same weights and optimiser.

    Raises:
        ValueError: the file is not of such a state.
    """
    stored, wanted = safetensors.numpy.load_file(path), _named_leaves(like)
    if {name: leaf.shape for name, leaf in stored.items()} != {name: leaf.shape for name, leaf in wanted.items()}:
        raise ValueError(f"{path}: the checkpoint is of other weights; start without it.")
    leaves = [jnp.asarray(stored[name]) for name in wanted]
    restored: LoopState = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return restored


def _named_leaves(state: LoopState) -> dict[str, jax.Array]:
    leaves, _ = jax.tree.flatten_with_path(state)
    return {jax.tree_util.keystr(place): leaf for place, leaf in leaves}


def _optimiser(config: LoopConfig) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.steps,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.gradient_norm),
        optax.adamw(
            rate,
            weight_decay=config.weight_decay,
            # Batch norm's scales and offsets and biases are left as they want to be.
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )
