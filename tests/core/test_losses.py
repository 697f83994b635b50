from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.losses import contrastive, cross_entropy, similarity_distillation, supervised_contrastive


def unit(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    rows = rng.normal(size=(count, dimension))
    normalised: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalised


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def numeric_gradient(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Central differences of a float64 scalar function."""
    gradient = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[place] = 1e-5
        gradient[place] = (function(at + step) - function(at - step)) / 2e-5
    return gradient


def test_contrastive_worked_by_hand() -> None:
    loss = contrastive(
        distance=jnp.array([0.6, 0.6, 1.5, 0.0]), same=jnp.array([True, False, False, False]), margin=1.0
    )
    # 1/2 0.36; 1/2 (1 - 0.6)^2; beyond the margin nothing; at distance 0 the whole margin.
    np.testing.assert_allclose(loss, [0.18, 0.08, 0.0, 0.5], atol=1e-7)


def test_contrastive_gradient_draws_together_and_pushes_apart_within_the_margin() -> None:
    same = jnp.array([True, False, False])
    gradient = jax.grad(lambda distance: contrastive(distance=distance, same=same, margin=1.0).sum())(
        jnp.array([0.6, 0.6, 1.5])
    )
    np.testing.assert_allclose(gradient, [0.6, -0.4, 0.0], atol=1e-6)


def test_supervised_contrastive_worked_by_hand() -> None:
    # Two pictures of one class in one direction, a third of another at a right angle, temperature 1.
    embeddings = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = supervised_contrastive(embeddings=embeddings, labels=jnp.array([7, 7, 3]), temperature=1.0)
    alone = float(np.log1p(np.exp(-1.0)))  # -log(e / (e + 1))
    np.testing.assert_allclose(loss, [alone, alone, 0.0], atol=1e-6)


def reference_supervised_contrastive(embeddings: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
    count = len(labels)
    losses = np.zeros(count)
    for i in range(count):
        others = [j for j in range(count) if j != i]
        logits = np.array([embeddings[i] @ embeddings[j] / temperature for j in others])
        log_p = log_softmax(logits[None])[0]
        positives = [log_p[k] for k, j in enumerate(others) if labels[j] == labels[i]]
        losses[i] = -np.mean(positives) if positives else 0.0
    return losses


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_supervised_contrastive_and_its_gradient_equal_a_float64_reference(temperature: float) -> None:
    embeddings, labels = unit(np.random.default_rng(0), 6, 4), np.array([0, 0, 1, 1, 1, 2])

    def reference(embeddings: np.ndarray) -> float:
        return float(reference_supervised_contrastive(embeddings, labels, temperature).sum())

    def loss(embeddings: jax.Array) -> jax.Array:
        return supervised_contrastive(embeddings=embeddings, labels=jnp.asarray(labels), temperature=temperature)

    np.testing.assert_allclose(
        loss(jnp.asarray(embeddings, jnp.float32)),
        reference_supervised_contrastive(embeddings, labels, temperature),
        rtol=1e-4,
        atol=1e-5,
    )
    gradient = jax.grad(lambda embeddings: loss(embeddings).sum())(jnp.asarray(embeddings, jnp.float32))
    np.testing.assert_allclose(gradient, numeric_gradient(reference, embeddings), rtol=1e-3, atol=1e-3)


def test_cross_entropy_worked_by_hand() -> None:
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    label = jnp.array([0])
    np.testing.assert_allclose(cross_entropy(logits=logits, labels=label), [np.log(2)], rtol=1e-6)
    # 0.7 of the target on the label, 0.1 more on each of the three.
    smoothed = 0.8 * np.log(2) + 0.1 * np.log(4) + 0.1 * np.log(4)
    np.testing.assert_allclose(cross_entropy(logits=logits, labels=label, smoothing=0.3), [smoothed], rtol=1e-6)


def test_cross_entropy_gradient_is_probability_less_target() -> None:
    logits = np.random.default_rng(1).normal(size=(3, 4))
    labels = np.array([0, 3, 1])
    gradient = jax.grad(lambda logits: cross_entropy(logits=logits, labels=jnp.asarray(labels), smoothing=0.2).sum())(
        jnp.asarray(logits, jnp.float32)
    )
    target = 0.8 * np.eye(4)[labels] + 0.05
    np.testing.assert_allclose(gradient, np.exp(log_softmax(logits)) - target, atol=1e-6)


def test_distillation_worked_by_hand() -> None:
    # The teacher sees the picture at a right angle to both entries: one half each. The student sees one of them.
    bank = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    loss = similarity_distillation(
        student=jnp.array([[1.0, 0.0, 0.0]]),
        teacher=jnp.array([[0.0, 0.0, 1.0]]),
        student_bank=bank,
        teacher_bank=bank,
        temperature=1.0,
    )
    p = np.exp(1.0) / (np.exp(1.0) + 1.0)
    np.testing.assert_allclose(loss, [0.5 * np.log(0.5 / p) + 0.5 * np.log(0.5 / (1 - p))], rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), temperature=st.sampled_from([0.05, 0.2, 1.0]))
def test_distillation_is_zero_for_the_teacher_itself_and_never_negative(seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    teacher, student, bank = (jnp.asarray(unit(rng, count, 6), jnp.float32) for count in (3, 3, 8))

    def loss(student: jax.Array) -> jax.Array:
        return similarity_distillation(
            student=student, teacher=teacher, student_bank=bank, teacher_bank=bank, temperature=temperature
        )

    np.testing.assert_allclose(loss(teacher), 0.0, atol=1e-5)
    assert (loss(student) > -1e-5).all()


def test_distillation_gradient_equals_a_float64_reference() -> None:
    rng = np.random.default_rng(2)
    teacher, student, bank = unit(rng, 2, 5), unit(rng, 2, 5), unit(rng, 7, 5)

    def reference(student: np.ndarray) -> float:
        target = log_softmax(teacher @ bank.T / 0.2)
        return float(np.sum(np.exp(target) * (target - log_softmax(student @ bank.T / 0.2))))

    def loss(student: jax.Array) -> jax.Array:
        return similarity_distillation(
            student=student,
            teacher=jnp.asarray(teacher, jnp.float32),
            student_bank=jnp.asarray(bank, jnp.float32),
            teacher_bank=jnp.asarray(bank, jnp.float32),
            temperature=0.2,
        ).sum()

    gradient = jax.grad(loss)(jnp.asarray(student, jnp.float32))
    np.testing.assert_allclose(gradient, numeric_gradient(reference, student), rtol=1e-3, atol=1e-4)
