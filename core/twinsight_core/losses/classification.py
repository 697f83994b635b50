"""Losses of classifiers, and the ways to make rare classes count: weights, focus, and the prior in the logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# Below it a class counts as never seen; keeps the logarithm finite.
_LEAST_PRIOR = 1e-12
# Where the true class has all the probability, powers below 1 would have an infinite slope.
_LEAST_MISS = 1e-12


def cross_entropy(
    *, logits: jax.Array, labels: jax.Array, smoothing: float = 0.0, class_weights: jax.Array | None = None
) -> jax.Array:
    """Returns the softmax cross-entropy with label smoothing.

    The target is 1 - smoothing on the label plus smoothing / classes on every class. A weight multiplies the whole
    loss of the examples of its class.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7.

    Args:
        logits: [batch, classes] float32.
        labels: [batch] integer, 0..classes - 1.
        smoothing: share of the target that is spread evenly, 0..1.
        class_weights: [classes] float32, at least 0; None weighs all alike.

    Returns:
        [batch] float32, at least 0.
    """
    log_probability = jax.nn.log_softmax(logits, axis=1)
    loss = -(1.0 - smoothing) * _of_label(log_probability, labels) - smoothing * jnp.mean(log_probability, axis=1)
    return _weighted(loss, labels, class_weights)


def focal(
    *, logits: jax.Array, labels: jax.Array, gamma: float = 2.0, class_weights: jax.Array | None = None
) -> jax.Array:
    """Returns the focal loss: examples that are already right count less.

    -w (1 - p)^gamma log p, where p is the label's probability and w its class's weight. With gamma 0 it is the
    cross-entropy.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eqs. 4 and 5, here over a softmax in place
    of the paper's sigmoid.

    Args:
        logits: [batch, classes] float32.
        labels: [batch] integer, 0..classes - 1.
        gamma: how strongly easy examples are set back, at least 0.
        class_weights: [classes] float32, at least 0 (the paper's alpha); None weighs all alike.

    Returns:
        [batch] float32, at least 0.
    """
    log_probability = _of_label(jax.nn.log_softmax(logits, axis=1), labels)
    miss = jnp.maximum(-jnp.expm1(log_probability), _LEAST_MISS)
    return _weighted(-(miss**gamma) * log_probability, labels, class_weights)


def logit_adjusted(
    *, logits: jax.Array, labels: jax.Array, prior: jax.Array, tau: float = 1.0, smoothing: float = 0.0
) -> jax.Array:
    """Returns the cross-entropy of logits to which tau x log prior is added.

    A rare class must reach a higher logit to win; predictions are made from the logits alone, which then favour no
    class for being frequent.

    Source: Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021, eq. 10.

    Args:
        logits: [batch, classes] float32.
        labels: [batch] integer, 0..classes - 1.
        prior: [classes] float32, share of each class in the training data, above 0, of sum 1.
        tau: strength; 1 makes the balanced error consistent, 0 is the plain cross-entropy.
        smoothing: as in `cross_entropy`.

    Returns:
        [batch] float32, at least 0.
    """
    adjusted = logits + tau * jnp.log(jnp.maximum(prior, _LEAST_PRIOR))
    return cross_entropy(logits=adjusted, labels=labels, smoothing=smoothing)


def effective_number_weights(counts: np.ndarray, *, beta: float = 0.999) -> np.ndarray:
    """Returns weights by the effective number of examples: (1 - beta) / (1 - beta^count), of mean 1.

    Between no weighting (beta 0) and the inverse of the number of examples (beta towards 1): the more examples a class
    has, the less a further one adds.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, eqs. 2 and 5, with the
    weights' sum set to the number of classes as the paper does.

    Args:
        counts: [classes] integer, training examples of each class, at least 1.
        beta: 0..1, 1 itself not included.

    Returns:
        [classes] float32, above 0, of mean 1.

    Raises:
        ValueError: a class has no example, or `beta` breaks its rule.
    """
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"`beta` (={beta}) must be at least 0 and below 1.")
    checked = _checked(counts)
    if beta == 0.0:
        return np.ones(checked.shape, np.float32)
    # 1 - beta^count without cancellation where beta is close to 1.
    return _of_mean_1(1.0 / -np.expm1(checked * np.log(beta)))


def _of_label(values: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.take_along_axis(values, labels[:, None], axis=1)[:, 0]


def _weighted(loss: jax.Array, labels: jax.Array, class_weights: jax.Array | None) -> jax.Array:
    return loss if class_weights is None else loss * class_weights[labels]


def _checked(counts: np.ndarray) -> np.ndarray:
    if counts.ndim != 1 or not len(counts):
        raise ValueError(f"`counts` {counts.shape} must be [classes], at least one.")
    if (counts < 1).any():
        empty = int(np.argmax(counts < 1))
        raise ValueError(f"`counts[{empty}]` (={counts[empty]}) must be at least 1: a class without examples.")
    return counts.astype(np.float64)


def _of_mean_1(weights: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (weights / weights.mean()).astype(np.float32)
    return scaled
