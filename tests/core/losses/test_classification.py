import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinsight_core.losses import (
    cross_entropy,
    effective_number_weights,
    focal,
    logit_adjusted,
)

NumericGradient = Callable[[Callable[[np.ndarray], float], np.ndarray], np.ndarray]

HALF_AND_QUARTERS = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def test_cross_entropy_worked_by_hand() -> None:
    label = jnp.array([0])
    np.testing.assert_allclose(cross_entropy(logits=HALF_AND_QUARTERS, labels=label), [np.log(2)], rtol=1e-6)
    # 0.7 of the target on the label, 0.1 more on each of the three.
    smoothed = 0.8 * np.log(2) + 0.1 * np.log(4) + 0.1 * np.log(4)
    np.testing.assert_allclose(
        cross_entropy(logits=HALF_AND_QUARTERS, labels=label, smoothing=0.3), [smoothed], rtol=1e-6
    )
    weighted = cross_entropy(logits=HALF_AND_QUARTERS, labels=label, class_weights=jnp.array([3.0, 1.0, 1.0]))
    np.testing.assert_allclose(weighted, [3 * np.log(2)], rtol=1e-6)


def test_cross_entropy_gradient_is_weight_times_probability_less_target() -> None:
    logits = np.random.default_rng(1).normal(size=(3, 4))
    labels, weights = np.array([0, 3, 1]), np.array([0.5, 2.0, 1.0, 0.25])
    gradient = jax.grad(
        lambda logits: cross_entropy(
            logits=logits, labels=jnp.asarray(labels), smoothing=0.2, class_weights=jnp.asarray(weights)
        ).sum()
    )(jnp.asarray(logits, jnp.float32))
    target = 0.8 * np.eye(4)[labels] + 0.05
    expected = weights[labels][:, None] * (np.exp(log_softmax(logits)) - target)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_focal_worked_by_hand() -> None:
    loss = focal(
        logits=jnp.repeat(HALF_AND_QUARTERS, 2, axis=0),
        labels=jnp.array([0, 1]),
        gamma=2.0,
        class_weights=jnp.array([1.0, 4.0, 1.0]),
    )
    # (1 - 1/2)^2 log 2; 4 (1 - 1/4)^2 log 4.
    np.testing.assert_allclose(loss, [0.25 * np.log(2), 4 * 0.5625 * np.log(4)], rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_and_its_gradient_equal_a_float64_reference(gamma: float, numeric_gradient: NumericGradient) -> None:
    logits, labels = 2 * np.random.default_rng(4).normal(size=(4, 3)), np.array([0, 1, 2, 1])

    def reference(logits: np.ndarray) -> np.ndarray:
        log_p = log_softmax(logits)[np.arange(4), labels]
        values: np.ndarray = -((1 - np.exp(log_p)) ** gamma) * log_p
        return values

    def loss(logits: jax.Array) -> jax.Array:
        return focal(logits=logits, labels=jnp.asarray(labels), gamma=gamma)

    np.testing.assert_allclose(loss(jnp.asarray(logits, jnp.float32)), reference(logits), rtol=1e-4, atol=1e-6)
    gradient = jax.grad(lambda logits: loss(logits).sum())(jnp.asarray(logits, jnp.float32))
    expected = numeric_gradient(lambda logits: float(reference(logits).sum()), logits)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_stays_finite_where_the_label_has_all_or_nothing(gamma: float) -> None:
    logits = jnp.array([[200.0, 0.0], [0.0, 200.0]])

    def loss(logits: jax.Array) -> jax.Array:
        return focal(logits=logits, labels=jnp.array([0, 0]), gamma=gamma)

    np.testing.assert_allclose(loss(logits), [0.0, 200.0], atol=1e-4)
    assert jnp.isfinite(jax.grad(lambda logits: loss(logits).sum())(logits)).all()


def test_logit_adjustment_worked_by_hand() -> None:
    # Equal logits; the prior alone decides: -log 0.9 and -log 0.1.
    loss = logit_adjusted(logits=jnp.zeros((2, 2)), labels=jnp.array([0, 1]), prior=jnp.array([0.9, 0.1]))
    np.testing.assert_allclose(loss, -np.log([0.9, 0.1]), rtol=1e-5)
    # At tau 2 the prior's odds count squared: 81 to 1.
    squared = logit_adjusted(logits=jnp.zeros((1, 2)), labels=jnp.array([1]), prior=jnp.array([0.9, 0.1]), tau=2.0)
    np.testing.assert_allclose(squared, [np.log(82)], rtol=1e-5)


def test_logit_adjustment_gradient_is_adjusted_probability_less_target() -> None:
    logits, labels = np.random.default_rng(5).normal(size=(3, 4)), np.array([2, 0, 3])
    prior = np.array([0.7, 0.2, 0.09, 0.01])
    gradient = jax.grad(
        lambda logits: logit_adjusted(
            logits=logits, labels=jnp.asarray(labels), prior=jnp.asarray(prior, jnp.float32), tau=1.5, smoothing=0.1
        ).sum()
    )(jnp.asarray(logits, jnp.float32))
    target = 0.9 * np.eye(4)[labels] + 0.025
    np.testing.assert_allclose(gradient, np.exp(log_softmax(logits + 1.5 * np.log(prior))) - target, atol=1e-5)


def test_a_class_never_seen_leaves_the_adjusted_loss_finite() -> None:
    loss = logit_adjusted(logits=jnp.zeros((1, 2)), labels=jnp.array([0]), prior=jnp.array([1.0, 0.0]), smoothing=0.1)
    assert jnp.isfinite(loss).all()


def test_weights_worked_by_hand() -> None:
    # beta 1/2: effective numbers (1 - 1/2) / (1/2) = 1 and (1 - 1/4) / (1/2) = 3/2; inverses 1 and 2/3.
    np.testing.assert_allclose(effective_number_weights(np.array([1, 2]), beta=0.5), [1.2, 0.8], rtol=1e-6)


@given(counts=st.lists(st.integers(1, 10**6), min_size=1, max_size=20), beta=st.floats(0.0, 0.99999999))
def test_weights_have_mean_one_and_never_favour_the_more_frequent(counts: list[int], beta: float) -> None:
    weights = effective_number_weights(np.array(counts), beta=beta)
    assert weights.dtype == np.float32
    assert float(weights.mean()) == pytest.approx(1.0, rel=1e-4)
    assert (weights > 0).all()
    assert (np.diff(weights[np.argsort(counts)]) <= 0).all()


def test_effective_numbers_lie_between_no_weights_and_the_inverse_of_examples() -> None:
    counts = np.array([1, 3])
    np.testing.assert_array_equal(effective_number_weights(counts, beta=0.0), [1.0, 1.0])
    # 1/1 and 1/3, scaled to mean 1.
    np.testing.assert_allclose(effective_number_weights(counts, beta=1 - 1e-12), [1.5, 0.5], rtol=1e-4)


@pytest.mark.parametrize(
    ("counts", "beta", "message"),
    [
        ([3, 0], 0.9, "`counts[1]` (=0) must be at least 1: a class without examples."),
        ([3, 1], 1.0, "`beta` (=1.0) must be at least 0 and below 1."),
        ([], 0.9, "`counts` (0,) must be [classes], at least one."),
    ],
)
def test_weights_refuse_what_has_no_weight(counts: list[int], beta: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        effective_number_weights(np.array(counts, np.int64), beta=beta)


Loss = Callable[[jax.Array, jax.Array], jax.Array]
COUNTS = np.array([1000, 1000, 25])


def draw(rng: np.random.Generator, counts: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Points around one centre a class, near enough to overlap."""
    centres = np.array([[0.0, 0.0], [3.0, 0.0], [1.5, 1.5]])
    labels = np.repeat(np.arange(3), counts)
    return jnp.asarray(centres[labels] + rng.normal(size=(len(labels), 2)), jnp.float32), jnp.asarray(labels)


def rare_recall(loss: Loss) -> float:
    """Recall of the rare class on a balanced test set after 300 steps of a linear classifier."""
    rng = np.random.default_rng(0)
    points, labels = draw(rng, COUNTS)
    test_points, test_labels = draw(rng, np.array([500, 500, 500]))
    optimiser = optax.adam(0.05)
    weights = jnp.zeros((3, 3))

    def logits(weights: jax.Array, points: jax.Array) -> jax.Array:
        return points @ weights[:2] + weights[2]

    def step(_: int, carried: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
        weights, state = carried
        gradient = jax.grad(lambda weights: loss(logits(weights, points), labels).mean())(weights)
        updates, state = optimiser.update(gradient, state)
        return jax.tree.map(jnp.add, weights, updates), state

    weights, _ = jax.jit(lambda weights: jax.lax.fori_loop(0, 300, step, (weights, optimiser.init(weights))))(weights)
    predicted = jnp.argmax(logits(weights, test_points), axis=1)
    return float((predicted == test_labels)[test_labels == 2].mean())


@pytest.fixture(scope="module")
def plain_recall() -> float:
    return rare_recall(lambda logits, labels: cross_entropy(logits=logits, labels=labels))


REMEDIES: dict[str, Loss] = {
    "effective numbers": lambda logits, labels: cross_entropy(
        logits=logits, labels=labels, class_weights=jnp.asarray(effective_number_weights(COUNTS, beta=0.999))
    ),
    "focal with effective numbers": lambda logits, labels: focal(
        logits=logits, labels=labels, class_weights=jnp.asarray(effective_number_weights(COUNTS, beta=0.999))
    ),
    "logit adjustment": lambda logits, labels: logit_adjusted(
        logits=logits, labels=labels, prior=jnp.asarray(COUNTS / COUNTS.sum(), jnp.float32)
    ),
}


@pytest.mark.parametrize("remedy", REMEDIES)
def test_a_rare_class_is_found_more_often_than_with_plain_cross_entropy(remedy: str, plain_recall: float) -> None:
    recall = rare_recall(REMEDIES[remedy])
    assert recall > plain_recall + 0.3
    assert recall > 0.5
