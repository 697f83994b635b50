"""Losses of embeddings and classifiers: pure functions of arrays, one value an example; the caller reduces."""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Stands for minus infinity where a pair must not count; -inf itself makes NaN gradients.
_EXCLUDED = -1e9


def contrastive(*, distance: jax.Array, same: jax.Array, margin: float = 1.0) -> jax.Array:
    """Returns the contrastive loss: same pairs are drawn together, others pushed apart up to the margin.

    1/2 d^2 for a same pair, 1/2 max(0, margin - d)^2 for another.

    Source: Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006, eq. 4
    (whose Y is 1 for dissimilar pairs).

    Args:
        distance: [batch] float32, Euclidean distance of each pair, at least 0.
        same: [batch] bool, whether the pair is the same.
        margin: distance beyond which other pairs cost nothing, above 0.

    Returns:
        [batch] float32, at least 0.
    """
    together = 0.5 * jnp.square(distance)
    apart = 0.5 * jnp.square(jnp.maximum(margin - distance, 0.0))
    return jnp.where(same, together, apart)


def supervised_contrastive(*, embeddings: jax.Array, labels: jax.Array, temperature: float = 0.1) -> jax.Array:
    """Returns the supervised contrastive loss: each embedding should tell its class's from all others of the batch.

    With one label a picture and two views of each it is the self-supervised loss of SimCLR.

    Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2 (the sum over positives outside the
    logarithm), without the paper's constant factor.

    Args:
        embeddings: [batch, dimension] float32, unit vectors.
        labels: [batch] integer.
        temperature: scale of the similarities, above 0.

    Returns:
        [batch] float32; 0 for an embedding whose label no other of the batch has.
    """
    logits = embeddings @ embeddings.T / temperature
    self_pair = jnp.eye(len(labels), dtype=bool)
    positive = (labels[:, None] == labels[None, :]) & ~self_pair
    log_probability = jax.nn.log_softmax(jnp.where(self_pair, _EXCLUDED, logits), axis=1)
    count = jnp.sum(positive, axis=1)
    return -jnp.sum(jnp.where(positive, log_probability, 0.0), axis=1) / jnp.maximum(count, 1)


def cross_entropy(*, logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Returns the softmax cross-entropy with label smoothing.

    The target is 1 - smoothing on the label plus smoothing / classes on every class.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.

    Args:
        logits: [batch, classes] float32.
        labels: [batch] integer, 0..classes - 1.
        smoothing: share of the target that is spread evenly, 0..1.

    Returns:
        [batch] float32, at least 0.
    """
    log_probability = jax.nn.log_softmax(logits, axis=1)
    chosen = jnp.take_along_axis(log_probability, labels[:, None], axis=1)[:, 0]
    return -(1.0 - smoothing) * chosen - smoothing * jnp.mean(log_probability, axis=1)


def similarity_distillation(
    *, student: jax.Array, teacher: jax.Array, student_bank: jax.Array, teacher_bank: jax.Array, temperature: float
) -> jax.Array:
    """Returns how far the student's view of who is close to whom is from the teacher's.

    The cross-entropy between the teacher's and the student's softmax of cosine similarities to the same bank of
    pictures, less the teacher's own entropy: 0 where both agree.

    Source: Fang et al., "SEED: Self-supervised Distillation for Visual Representation", ICLR 2021, eqs. 4 and 5, here
    with the batch's own pictures as the bank; the temperature is the same on both sides.

    Args:
        student: [batch, dimension] float32, unit vectors.
        teacher: [batch, teacher dimension] float32, unit vectors of the same pictures.
        student_bank: [size, dimension] float32, unit vectors.
        teacher_bank: [size, teacher dimension] float32, unit vectors of the same pictures.
        temperature: scale of the similarities, above 0.

    Returns:
        [batch] float32, at least 0.
    """
    target = jax.nn.log_softmax(teacher @ teacher_bank.T / temperature, axis=1)
    predicted = jax.nn.log_softmax(student @ student_bank.T / temperature, axis=1)
    return jnp.sum(jnp.exp(target) * (target - predicted), axis=1)
