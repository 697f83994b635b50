"""Losses of embeddings: pull the same together, push others apart."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

# Stands for minus infinity where a pair must not count; -inf itself makes NaN gradients.
_EXCLUDED = -1e9
# Square roots have no slope at 0; below this the root and its gradient are 0.
_LEAST_SQUARE = 1e-12
# 1 - cosine^2 below this is rounding of float32.
_LEAST_SINE_SQUARE = 1e-6


def contrastive(*, distance: jax.Array, same: jax.Array, margin: float = 1.0) -> jax.Array:
    """Returns the contrastive loss: it pulls same pairs together and pushes others apart up to the margin.

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
    """Returns the supervised contrastive loss: each embedding should be closest to its class in a batch.

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


def triplet_batch_hard(*, embeddings: jax.Array, labels: jax.Array, margin: float = 0.3) -> jax.Array:
    """Returns the triplet loss of each embedding with its farthest positive and its closest negative of the batch.

    max(0, margin + d(anchor, positive) - d(anchor, negative)) with Euclidean distances.

    Source: Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, eq. 5.

    Args:
        embeddings: [batch, dimension] float32.
        labels: [batch] integer.
        margin: by how much the negative should be farther, above 0.

    Returns:
        [batch] float32, at least 0; 0 for an embedding without a positive or without a negative.
    """
    square = _square_distances(embeddings)
    positive, negative = _pair_kinds(labels)
    # The root is taken of the chosen ones only: its slope is steep at small distances.
    farthest = _root(jnp.max(jnp.where(positive, square, 0.0), axis=1))
    closest = _root(jnp.min(jnp.where(negative, square, -_EXCLUDED), axis=1))
    counts = positive.any(axis=1) & negative.any(axis=1)
    return jnp.where(counts, jnp.maximum(margin + farthest - closest, 0.0), 0.0)


def triplet_semi_hard(*, embeddings: jax.Array, labels: jax.Array, margin: float = 0.2) -> jax.Array:
    """Returns the triplet loss with semi-hard negatives, the mean over each embedding's positives.

    max(0, margin + d^2(anchor, positive) - d^2(anchor, negative)); the negative is the closest of those that are
    farther than the positive, and the farthest of all where none is: the closest ones of all lead a young network to
    collapse.

    Source: Schroff, Kalenichenko and Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR
    2015, eqs. 3 and 4 (what is done where no negative is semi-hard is not in the paper).

    Args:
        embeddings: [batch, dimension] float32, unit vectors in the paper.
        labels: [batch] integer.
        margin: by how much the negative's squared distance should be larger, above 0.

    Returns:
        [batch] float32, at least 0; 0 for an embedding without a positive or without a negative.
    """
    square = _square_distances(embeddings)
    positive, negative = _pair_kinds(labels)
    mined = jax.lax.stop_gradient(square)
    farthest = jnp.argmax(jnp.where(negative, mined, _EXCLUDED), axis=1)

    # Positive by positive, and numbers only: all triplets at once would take batch^3 values.
    def negatives(to_positive: jax.Array) -> jax.Array:
        farther = negative & (mined > to_positive[:, None])
        semi_hard = jnp.argmin(jnp.where(farther, mined, -_EXCLUDED), axis=1)
        return jnp.where(farther.any(axis=1), semi_hard, farthest)

    # [anchor, positive], from columns of distances to one positive.
    chosen = jax.lax.map(negatives, mined.T, batch_size=16).T
    losses = jnp.maximum(margin + square - jnp.take_along_axis(square, chosen, axis=1), 0.0)
    counts = positive & negative.any(axis=1)[:, None]
    return jnp.sum(jnp.where(counts, losses, 0.0), axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1)


def arcface(
    *, embeddings: jax.Array, centres: jax.Array, labels: jax.Array, margin: float = 0.5, scale: float = 64.0
) -> jax.Array:
    """Returns the cross-entropy of scaled cosines to the classes' centres, the label's angle widened by the margin.

    The label's logit is scale x cos(angle + margin). Where the angle exceeds pi - margin that cosine would rise again;
    from there on scale x (cos(angle) - margin x sin(margin)) goes on falling.

    Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019, eq. 3; the
    continuation beyond pi - margin is not in the paper.

    Args:
        embeddings: [batch, dimension] float32, of any length.
        centres: [classes, dimension] float32, the weights that are trained with the network, of any length.
        labels: [batch] integer, 0..classes - 1.
        margin: angle in radians, 0..pi/2.
        scale: radius that the cosines are stretched to, above 0.

    Returns:
        [batch] float32, at least 0.
    """
    cosine = jnp.matmul(_at_length_1(embeddings), _at_length_1(centres).T, precision=jax.lax.Precision.HIGHEST)
    cosine = jnp.clip(cosine, -1.0, 1.0)
    of_label = jnp.take_along_axis(cosine, labels[:, None], axis=1)
    sine = _root(1.0 - jnp.square(of_label), least=_LEAST_SINE_SQUARE)
    widened = of_label * math.cos(margin) - sine * math.sin(margin)
    continued = of_label - margin * math.sin(margin)
    target = jnp.where(of_label > -math.cos(margin), widened, continued)
    is_label = labels[:, None] == jnp.arange(cosine.shape[1])
    log_probability = jax.nn.log_softmax(scale * jnp.where(is_label, target, cosine), axis=1)
    return -jnp.take_along_axis(log_probability, labels[:, None], axis=1)[:, 0]


def _square_distances(embeddings: jax.Array) -> jax.Array:
    # At the accelerators' reduced precision the differences of near vectors would drown.
    product = jnp.matmul(embeddings, embeddings.T, precision=jax.lax.Precision.HIGHEST)
    length = jnp.sum(jnp.square(embeddings), axis=1)
    return jnp.maximum(length[:, None] + length[None, :] - 2.0 * product, 0.0)


def _pair_kinds(labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns which pairs are positives (never a picture with itself) and which negatives, each [batch, batch] bool."""
    same = labels[:, None] == labels[None, :]
    return same & ~jnp.eye(len(labels), dtype=bool), ~same


def _root(square: jax.Array, *, least: float = _LEAST_SQUARE) -> jax.Array:
    """Returns the square root, 0 with gradient 0 below `least`."""
    large = square > least
    return jnp.where(large, jnp.sqrt(jnp.where(large, square, 1.0)), 0.0)


def _at_length_1(vectors: jax.Array) -> jax.Array:
    square = jnp.sum(jnp.square(vectors), axis=1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(square, _LEAST_SQUARE))
