import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.losses.detection import box_classification, box_regression, objectness, smooth_l1


def test_objectness_is_the_mean_logistic_loss_of_the_sampled_anchors() -> None:
    loss = objectness(
        logits=jnp.array([[0.0, 2.0, -1.0, 50.0]]),
        positive=jnp.array([[True, False, True, False]]),
        sampled=jnp.array([[True, True, True, False]]),
    )
    wanted = (np.log(2) + np.log1p(np.exp(2)) + np.log1p(np.exp(1))) / 3
    np.testing.assert_allclose(loss, [wanted], rtol=1e-6)


def test_smooth_l1_is_a_square_below_beta_and_a_line_above() -> None:
    differences = jnp.array([-2.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    np.testing.assert_allclose(smooth_l1(differences, beta=1.0), [1.5, 0.125, 0, 0.125, 0.5, 2.5])
    np.testing.assert_allclose(smooth_l1(jnp.array([0.25, 2.0]), beta=0.5), [0.0625, 1.75])


def test_regression_counts_positives_and_divides_by_all_that_are_sampled() -> None:
    loss = box_regression(
        predicted=jnp.array([[[1.0, 0, 0, 0], [9, 9, 9, 9], [9, 9, 9, 9], [0, 0, 0, 3]]]),
        target=jnp.zeros((1, 4, 4)),
        positive=jnp.array([[True, False, True, True]]),
        sampled=jnp.array([[True, True, False, True]]),
    )
    np.testing.assert_allclose(loss, [(0.5 + 2.5) / 3], rtol=1e-6)


def test_classification_is_the_mean_cross_entropy_of_the_sampled_boxes() -> None:
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]]))
    loss = box_classification(logits=logits, labels=jnp.array([[0, 2, 1]]), sampled=jnp.array([[True, True, False]]))
    np.testing.assert_allclose(loss, [-(np.log(0.5) + np.log(0.8)) / 2], rtol=1e-5)


def test_where_nothing_is_sampled_there_is_no_loss_and_no_gradient() -> None:
    nothing = jnp.zeros((1, 3), bool)

    def total(x: jax.Array) -> jax.Array:
        return (
            objectness(logits=x[..., 0], positive=nothing, sampled=nothing)
            + box_classification(logits=x, labels=jnp.zeros((1, 3), int), sampled=nothing)
            + box_regression(predicted=x, target=0 * x, positive=nothing, sampled=nothing)
        )[0]

    value, gradient = jax.value_and_grad(total)(jnp.ones((1, 3, 4)) * 100)
    assert float(value) == 0
    assert not gradient.any()


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=25)
def test_all_are_those_of_the_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 4, (2, 6, 4)), rng.integers(0, 4, (2, 6))
    predicted, target = rng.normal(0, 2, (2, 6, 4)), rng.normal(0, 2, (2, 6, 4))
    positive, sampled = rng.random((2, 6)) < 0.5, rng.random((2, 6)) < 0.7
    sampled[:, 0] = True
    one = [jnp.asarray(x, jnp.float32) for x in (logits, predicted, target)]
    masks = {"positive": jnp.asarray(positive), "sampled": jnp.asarray(sampled)}

    def mean(values: np.ndarray, counted: np.ndarray) -> np.ndarray:
        result: np.ndarray = (values * counted).sum(axis=1) / sampled.sum(axis=1)
        return result

    probability = 1 / (1 + np.exp(-logits[..., 0]))
    binary = -np.log(np.where(positive, probability, 1 - probability))
    np.testing.assert_allclose(objectness(logits=one[0][..., 0], **masks), mean(binary, sampled), rtol=1e-4)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    cross = -np.log(np.take_along_axis(softmax, labels[..., None], axis=-1)[..., 0])
    classified = box_classification(logits=one[0], labels=jnp.asarray(labels), sampled=masks["sampled"])
    np.testing.assert_allclose(classified, mean(cross, sampled), rtol=1e-4)
    apart = np.abs(predicted - target)
    smooth = np.where(apart < 0.5, apart**2, apart - 0.25).sum(axis=-1)
    regressed = box_regression(predicted=one[1], target=one[2], beta=0.5, **masks)
    np.testing.assert_allclose(regressed, mean(smooth, sampled & positive), rtol=1e-4)


def test_certain_logits_give_finite_losses() -> None:
    far = jnp.array([[1000.0, -1000.0]])
    loss = objectness(logits=far, positive=jnp.array([[False, True]]), sampled=jnp.ones((1, 2), bool))
    assert float(loss[0]) == pytest.approx(1000)
