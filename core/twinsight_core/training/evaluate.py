"""Batched inference over many pictures, and the retrieval of edited copies among distractors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from flax import nnx

from twinsight_core.errors import TrainingError
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.float32 import in_float32

ANSWERS_NOT_FINITE = "ANSWERS_NOT_FINITE"
"""Reason of the error if a network's outputs are not finite."""

_ROWS_AT_ONCE = 1024

NetworkT = TypeVar("NetworkT", bound=nnx.Module)

Embed = Callable[[np.ndarray], np.ndarray]
"""[count, height, width, 3] uint8, RGB, 0..255 -> [count, dimension] float32, unit vectors."""


def in_batches(
    run: Callable[[np.ndarray], jax.Array | np.ndarray], images: np.ndarray, *, batch: int = 64
) -> np.ndarray:
    """Returns a jitted function's outputs for many pictures, run over batches of one size.

    Args:
        run: [batch, height, width, 3] uint8 -> [batch, dimension] float32.
        images: [count, height, width, 3] uint8, RGB, 0..255.
        batch: pictures at once; the last batch is padded with black ones.

    Returns:
        [count, dimension] float32.

    Raises:
        TrainingError: an output is not finite: the weights are too large, or not finite themselves.
    """
    results = []
    for start in range(0, len(images), batch):
        part = np.asarray(images[start : start + batch])
        filled = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), part.dtype)])
        results.append(np.asarray(run(filled))[: len(part)])
    answers = np.concatenate(results)
    if not np.isfinite(answers).all():
        raise TrainingError(
            "The network's outputs are not finite; its weights are too large.", reason=ANSWERS_NOT_FINITE
        )
    return answers


def embedder(network: nnx.Module, *, batch: int = 64) -> Embed:
    """Returns a network in evaluation mode as a jitted function over any number of pictures, `batch` at once."""
    return _jitted(network, lambda made, images: made(images), batch=batch)


def logits_of(network: Classifier, *, batch: int = 64) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function for a classifier's logits, before its temperature: as `embedder`, [count, classes] float32.

    Its outputs are float32 probabilities, of which small ones all become 0 if its temperature is low.
    """
    return _jitted(network, lambda made, images: made.logits(images), batch=batch)


def _jitted(
    network: NetworkT, answer: Callable[[NetworkT, jax.Array], jax.Array], *, batch: int
) -> Callable[[np.ndarray], np.ndarray]:
    graph, state = nnx.split(network)
    run = jax.jit(in_float32(lambda state, images: answer(nnx.merge(graph, state), images)))
    return lambda images: in_batches(lambda part: run(state, part), images, batch=batch)


def copy_recall(copies: np.ndarray, gallery: np.ndarray, originals: np.ndarray) -> float:
    """Returns the share of edited copies whose closest picture of the gallery is their original, 0..1.

    Args:
        copies: [count, dimension] float32, unit vectors.
        gallery: [size, dimension] float32, unit vectors of originals and distractors.
        originals: [count] integer, row of each copy's original in `gallery`.
    """
    found = 0
    for start in range(0, len(copies), _ROWS_AT_ONCE):
        closest = np.argmax(copies[start : start + _ROWS_AT_ONCE] @ gallery.T, axis=1)
        found += int((closest == originals[start : start + _ROWS_AT_ONCE]).sum())
    return found / len(copies)
