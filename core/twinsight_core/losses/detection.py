"""Losses of detectors: whether a thing is there, what it is, and where its box should go.

Each is a mean over a picture's samples, so that the parts have equal weight however many boxes a picture has.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def objectness(*, logits: jax.Array, positive: jax.Array, sampled: jax.Array) -> jax.Array:
    """Returns the logistic loss of the sampled anchors of each picture.

    Source: Ren et al., "Faster R-CNN", NIPS 2015, eq. 1, first term, with one sigmoid for the two-class softmax.

    Args:
        logits: [batch, anchors] float32.
        positive: [batch, anchors] bool, a thing is there.
        sampled: [batch, anchors] bool, the anchor counts.

    Returns:
        [batch] float32, at least 0; 0 where nothing is sampled.
    """
    # -log sigmoid(z) for positives and -log(1 - sigmoid(z)) for negatives, without overflow.
    loss = jax.nn.softplus(jnp.where(positive, -logits, logits))
    return _sampled_mean(loss, sampled, among=sampled)


def box_classification(*, logits: jax.Array, labels: jax.Array, sampled: jax.Array) -> jax.Array:
    """Returns the softmax cross-entropy of the sampled boxes of each picture.

    Source: Girshick, "Fast R-CNN", ICCV 2015, eq. 1, first term.

    Args:
        logits: [batch, boxes, classes + 1] float32, the last for background.
        labels: [batch, boxes] integer, 0..classes, the last for background.
        sampled: [batch, boxes] bool, the box counts.

    Returns:
        [batch] float32, at least 0; 0 where nothing is sampled.
    """
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    loss = -jnp.take_along_axis(log_probability, labels[..., None], axis=-1)[..., 0]
    return _sampled_mean(loss, sampled, among=sampled)


def box_regression(
    *, predicted: jax.Array, target: jax.Array, positive: jax.Array, sampled: jax.Array, beta: float = 1.0
) -> jax.Array:
    """Returns the smooth L1 loss of the deltas of the positive boxes of each picture.

    The sum over the four deltas of the sampled positives, divided by all that are sampled.

    Source: Girshick, "Fast R-CNN", ICCV 2015, eqs. 1 (second term), 2 and 3; for anchors Ren et al., "Faster R-CNN",
    NIPS 2015, eq. 1, second term.

    Args:
        predicted: [batch, boxes, 4] float32.
        target: [batch, boxes, 4] float32; finite everywhere.
        positive: [batch, boxes] bool, the box belongs to a thing.
        sampled: [batch, boxes] bool, the box counts.
        beta: difference at which the square becomes a line, above 0; 1 in the paper.

    Returns:
        [batch] float32, at least 0; 0 where nothing is sampled.
    """
    loss = jnp.sum(smooth_l1(predicted - target, beta=beta), axis=-1)
    return _sampled_mean(loss, positive & sampled, among=sampled)


def smooth_l1(difference: jax.Array, *, beta: float) -> jax.Array:
    """Returns 0.5 x^2 / beta below `beta` and |x| - 0.5 beta from there, of the shape of `difference`.

    Source: Girshick, "Fast R-CNN", ICCV 2015, eq. 3 (beta 1).

    Args:
        difference: float32.
        beta: above 0.
    """
    size = jnp.abs(difference)
    return jnp.where(size < beta, 0.5 * jnp.square(difference) / beta, size - 0.5 * beta)


def _sampled_mean(loss: jax.Array, counted: jax.Array, *, among: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(counted, loss, 0.0), axis=-1) / jnp.maximum(jnp.sum(among, axis=-1), 1)
