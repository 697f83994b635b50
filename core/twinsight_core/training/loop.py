"""The training loop: one jitted step, a running average of the weights, checkpoints to resume from.

1. The batch of a step is a function of the step's number alone, and so is its random key; grain makes batches ahead of
   time, in threads.
2. The jitted step computes the loss and its gradient and updates the weights, the running statistics, the optimiser and
   the running average of the weights. With several devices, the batch is sharded over all of them.
3. At intervals the weights are checked to be finite, and their average is scored on validation data if there is a
   score. The best average so far is kept, and training stops early if the score no longer improves.
4. Then all of that is written to a checkpoint, completely or not at all. A run that resumes from one ends with the same
   weights as a run that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from twinsight_core.errors import TrainingError
from twinsight_core.training.checkpoints import Checkpoints
from twinsight_core.training.evaluate import ANSWERS_NOT_FINITE
from twinsight_core.training.trainable import Arrays

Batch = TypeVar("Batch")
"""Pytree of arrays whose leading axis is the pictures."""

BatchT_contra = TypeVar("BatchT_contra", contravariant=True)

_READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)


class Loss(Protocol[BatchT_contra]):
    """The loss to minimise; pure, jitted by the loop."""

    def __call__(
        self, params: Arrays, stats: Arrays, batch: BatchT_contra, key: jax.Array
    ) -> tuple[jax.Array, tuple[Arrays, Arrays]]:
        """Returns the loss, a scalar, with the updated statistics and the loss's parts by name, scalars."""
        ...


class Watcher(Protocol):
    """Receives a run's progress."""

    def on_start(self, step: int, steps: int) -> None:
        """The run starts, or resumes, after `step` steps."""
        ...

    def on_steps(self, step: int, losses: dict[str, float]) -> None:
        """Steps were made; `losses` are the means over those since the last call, the total loss as `loss`."""
        ...

    def on_score(self, step: int, score: float) -> None:
        """The running average was scored on validation data."""
        ...

    def on_early_end(self, step: int, best_step: int) -> None:
        """Training stops after `step` steps, or had stopped before: no score was better than that of `best_step`."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast.

    Attributes:
        steps: updates of the weights.
        learning_rate: peak rate, reached after the warm-up; it falls to 0 along a half cosine.
        warmup_steps: steps over which the rate rises from 0.
        weight_decay: AdamW's, on weights with two axes or more.
        gradient_norm: largest gradient norm; larger gradients are scaled down.
        average: decay of the running average of the weights, 0..1.
        checkpoint_every: steps between checkpoints, and between scores.
        report_every: steps between reports of the loss.
        patience: scores without a better one after which training stops; 0 never stops early.
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
    patience: int = 0
    seed: int = 0


@dataclass(frozen=True)
class LoopState:
    """All that the next step depends on.

    Attributes:
        step: updates made so far, scalar int32.
        params: the weights.
        stats: the running statistics.
        average: running average of the weights, the result of training.
        optimiser: optax's state.
        best: the average that scored best so far.
        best_stats: the statistics beside it.
        best_score: its score, scalar float32; minus infinity before the first.
        since_best: scores since then, scalar int32.
    """

    step: jax.Array
    params: Arrays
    stats: Arrays
    average: Arrays
    optimiser: optax.OptState
    best: Arrays
    best_stats: Arrays
    best_score: jax.Array
    since_best: jax.Array


jax.tree_util.register_dataclass(LoopState)


@dataclass(frozen=True)
class Trained:
    """What a run ends with.

    Attributes:
        params: the average of the weights: the one that scored best, or the last if nothing was scored.
        stats: the running statistics beside it.
        step: steps that were made.
        score: the score; None if nothing was scored.
    """

    params: Arrays
    stats: Arrays
    step: int
    score: float | None


def train(
    params: Arrays,
    stats: Arrays,
    *,
    loss: Loss[Batch],
    batch: Callable[[int], Batch],
    config: LoopConfig,
    checkpoints: Path,
    resume: bool = False,
    score: Callable[[Arrays, Arrays], float] | None = None,
    watchers: tuple[Watcher, ...] = (),
) -> Trained:
    """Returns the weights after `config.steps` steps, or fewer if training stops early.

    Args:
        params: the first weights.
        stats: the first running statistics; empty if there are none.
        loss: to minimise.
        batch: the batch of a step, of equal shapes at every step; called in a thread, ahead of time.
        config: how long and how fast.
        checkpoints: folder of the checkpoints; those in it are deleted without `resume`.
        resume: continue from the newest checkpoint if there is one.
        score: of weights and statistics on validation data; higher is better.
        watchers: receive the progress.

    Raises:
        TrainingError: the checkpoint is of other weights or can't be written; or the loss, the weights or the network's
            outputs for validation data are no longer finite, and the last good checkpoint is kept.
    """
    optimiser = _optimiser(config)
    state = LoopState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        average=params,
        optimiser=optimiser.init(params),
        best=params,
        best_stats=stats,
        best_score=jnp.array(-jnp.inf, jnp.float32),
        since_best=jnp.zeros((), jnp.int32),
    )
    kept = Checkpoints(checkpoints)
    try:
        if resume:
            state = kept.latest(state) or state
        else:
            kept.clear()
        state = _run(
            state,
            update=_update(loss, optimiser, config),
            batch=batch,
            config=config,
            kept=kept,
            score=score,
            watchers=watchers,
        )
    finally:
        kept.close()
    if score is None:
        return Trained(params=state.average, stats=state.stats, step=int(state.step), score=None)
    return Trained(params=state.best, stats=state.best_stats, step=int(state.step), score=float(state.best_score))


def _run(
    state: LoopState,
    *,
    update: Callable[[LoopState, Batch], tuple[LoopState, Arrays]],
    batch: Callable[[int], Batch],
    config: LoopConfig,
    kept: Checkpoints,
    score: Callable[[Arrays, Arrays], float] | None,
    watchers: tuple[Watcher, ...],
) -> LoopState:
    first = int(state.step)
    for one in watchers:
        one.on_start(first, config.steps)
    losses: list[Arrays] = []
    for done, prepared in enumerate(_batches(batch, first, config.steps), start=first + 1):
        if _ended_early(state, config):
            break
        state, parts = update(state, prepared)
        losses.append(parts)
        pausing = done % config.checkpoint_every == 0 or done == config.steps
        if done % config.report_every == 0 or pausing:
            means = _means(jax.device_get(losses), done, kept)
            losses = []
            for one in watchers:
                one.on_steps(done, means)
        if pausing:
            # The loss of this step is of the weights before it.
            length = float(_length((state.params, state.average, state.stats)))
            if not np.isfinite(length):
                raise _blown_up(f"The norm of weights and statistics is {length}", done, kept)
            if score is not None:
                value = _validated(score, state, done, kept)
                state = _scored(state, value)
                for one in watchers:
                    one.on_score(done, value)
            kept.save(done, state)
    step = int(state.step)
    if _ended_early(state, config) and step < config.steps:
        for one in watchers:
            one.on_early_end(step, step - int(state.since_best) * config.checkpoint_every)
    return state


def _validated(score: Callable[[Arrays, Arrays], float], state: LoopState, step: int, kept: Checkpoints) -> float:
    """Returns the score of the running average.

    Raises:
        TrainingError: it is not a finite number, or the network's outputs are not.
    """
    try:
        value = score(state.average, state.stats)
    except TrainingError as error:
        if error.reason != ANSWERS_NOT_FINITE:
            raise
        raise _blown_up("The network's outputs for validation data are no longer finite", step, kept) from error
    if not np.isfinite(value):
        raise TrainingError(
            f"The validation score is {value} at step {step}; {kept.kept(before=step)}.",
            reason="SCORE_NOT_FINITE",
        )
    return value


@jax.jit
def _length(arrays: object) -> jax.Array:
    """Returns the Euclidean norm of all values, scalar float32: infinite from 1.8e19 on, where squares overflow."""
    length: jax.Array = optax.tree.norm(arrays)
    return length


def _blown_up(what: str, step: int, kept: Checkpoints) -> TrainingError:
    return TrainingError(
        f"{what} at step {step}; {kept.kept(before=step)}. A lower learning rate may help.",
        reason="LOSS_NOT_FINITE",
    )


def _batches(batch: Callable[[int], Batch], first: int, steps: int) -> Iterator[Batch]:
    """Yields the batches of the steps from `first` on, each made ahead of time and sharded over all devices."""
    devices = jax.local_devices()
    spread = NamedSharding(Mesh(np.array(devices), ("pictures",)), PartitionSpec("pictures"))
    for prepared in grain.MapDataset.range(first, steps).map(batch).to_iter_dataset(_READ):
        even = all(len(leaf) % len(devices) == 0 for leaf in jax.tree.leaves(prepared))
        yield jax.device_put(prepared, spread) if even and len(devices) > 1 else prepared


def _update(
    loss: Loss[Batch], optimiser: optax.GradientTransformation, config: LoopConfig
) -> Callable[[LoopState, Batch], tuple[LoopState, Arrays]]:
    root = jax.random.key(config.seed)

    def update(state: LoopState, batch: Batch) -> tuple[LoopState, Arrays]:
        key = jax.random.fold_in(root, state.step)
        (value, (stats, parts)), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.params, state.stats, batch, key
        )
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
        params: Arrays = jax.tree.map(jnp.add, state.params, updates)
        # After few steps the average would still be mostly the first weights: it starts with a shorter memory.
        decay = jnp.minimum(config.average, (1.0 + state.step) / (10.0 + state.step))
        average: Arrays = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, state.average, params)
        updated = replace(
            state, step=state.step + 1, params=params, stats=stats, average=average, optimiser=optimiser_state
        )
        return updated, {"loss": value, **parts, "gradient_norm": optax.tree.norm(gradient)}

    return jax.jit(update)


def _scored(state: LoopState, value: float) -> LoopState:
    # As float32, in which scores are kept: otherwise an equal score would count as better half of the time.
    if np.float32(value) > np.float32(state.best_score):
        return replace(
            state,
            best=state.average,
            best_stats=state.stats,
            best_score=jnp.array(value, jnp.float32),
            since_best=jnp.zeros((), jnp.int32),
        )
    return replace(state, since_best=state.since_best + 1)


def _ended_early(state: LoopState, config: LoopConfig) -> bool:
    return config.patience > 0 and int(state.since_best) >= config.patience


def _means(losses: list[dict[str, np.ndarray]], done: int, kept: Checkpoints) -> dict[str, float]:
    """Returns the means of the loss and its parts over the last steps.

    Raises:
        TrainingError: one is not finite; says at which step.
    """
    for number, parts in enumerate(losses):
        for name, what in (("loss", "loss"), ("gradient_norm", "gradient's norm")):
            if not np.isfinite(parts[name]):
                raise _blown_up(f"The {what} is {parts[name]}", done - len(losses) + number + 1, kept)
    names = ["loss", *(name for name in losses[0] if name != "loss")]
    return {name: float(np.mean([parts[name] for parts in losses])) for name in names}


def _optimiser(config: LoopConfig) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=min(config.warmup_steps, config.steps // 2),
        decay_steps=config.steps,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.gradient_norm),
        optax.adamw(
            rate,
            weight_decay=config.weight_decay,
            # Batch norm's scales and offsets and biases are not decayed.
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )
