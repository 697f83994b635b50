from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.losses import batch_similarity_distillation, knowledge_distillation, similarity_distillation

NumericGradient = Callable[[Callable[[np.ndarray], float], np.ndarray], np.ndarray]


def unit(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    rows = rng.normal(size=(count, dimension))
    normalised: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalised


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def test_similarity_distillation_worked_by_hand() -> None:
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
def test_similarity_distillation_is_zero_for_the_teacher_itself_and_never_negative(
    seed: int, temperature: float
) -> None:
    rng = np.random.default_rng(seed)
    teacher, student, bank = (jnp.asarray(unit(rng, count, 6), jnp.float32) for count in (3, 3, 8))

    def loss(student: jax.Array) -> jax.Array:
        return similarity_distillation(
            student=student, teacher=teacher, student_bank=bank, teacher_bank=bank, temperature=temperature
        )

    np.testing.assert_allclose(loss(teacher), 0.0, atol=1e-5)
    assert (loss(student) > -1e-5).all()


def test_similarity_distillation_gradient_equals_a_float64_reference(numeric_gradient: NumericGradient) -> None:
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


def test_batch_similarity_distillation_worked_by_hand() -> None:
    # The teacher sees the first two pictures as one and the third apart; to the student all three are as far apart.
    teacher = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = batch_similarity_distillation(student=jnp.eye(3), teacher=teacher, temperature=0.5)
    p = np.exp(2.0) / (np.exp(2.0) + 1.0)
    apart = p * np.log(p / 0.5) + (1 - p) * np.log((1 - p) / 0.5)
    np.testing.assert_allclose(loss, [apart, apart, 0.0], rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), temperature=st.sampled_from([0.05, 0.2, 1.0]))
def test_batch_similarity_distillation_minds_neither_turns_nor_dimensions_and_is_never_negative(
    seed: int, temperature: float
) -> None:
    rng = np.random.default_rng(seed)
    teacher, student = (jnp.asarray(unit(rng, 6, dimension), jnp.float32) for dimension in (5, 3))
    turned = jnp.asarray(np.linalg.qr(rng.normal(size=(5, 5)))[0], jnp.float32)

    def loss(student: jax.Array) -> jax.Array:
        return batch_similarity_distillation(student=student, teacher=teacher, temperature=temperature)

    for same in (teacher @ turned, jnp.pad(teacher, ((0, 0), (0, 2)))):
        np.testing.assert_allclose(loss(same), 0.0, atol=1e-4)
    assert (loss(student) > -1e-4).all()
    np.testing.assert_allclose(
        batch_similarity_distillation(student=student[:2], teacher=teacher[:2], temperature=temperature), 0.0
    )


def test_batch_similarity_distillation_gradient_equals_a_float64_reference(numeric_gradient: NumericGradient) -> None:
    rng = np.random.default_rng(4)
    teacher, student = unit(rng, 4, 5), unit(rng, 4, 3)

    def others(embeddings: np.ndarray) -> np.ndarray:
        cosines: np.ndarray = embeddings @ embeddings.T / 0.2
        left: np.ndarray = cosines[~np.eye(4, dtype=bool)].reshape(4, 3)
        return left

    def reference(student: np.ndarray) -> float:
        target = log_softmax(others(teacher))
        return float(np.sum(np.exp(target) * (target - log_softmax(others(student)))))

    def loss(student: jax.Array) -> jax.Array:
        return batch_similarity_distillation(
            student=student, teacher=jnp.asarray(teacher, jnp.float32), temperature=0.2
        ).sum()

    np.testing.assert_allclose(loss(jnp.asarray(student, jnp.float32)), reference(student), rtol=1e-4)
    gradient = jax.grad(loss)(jnp.asarray(student, jnp.float32))
    np.testing.assert_allclose(gradient, numeric_gradient(reference, student), rtol=1e-3, atol=1e-4)


def test_knowledge_distillation_worked_by_hand() -> None:
    # At temperature 2 the teacher's odds of 9 become 3: 3/4 and 1/4; the student is undecided.
    loss = knowledge_distillation(
        student_logits=jnp.array([[0.0, 0.0]]), teacher_logits=jnp.array([[np.log(9.0), 0.0]]), temperature=2.0
    )
    np.testing.assert_allclose(loss, [4 * (0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5))], rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_knowledge_distillation_and_its_gradient_equal_a_float64_reference(temperature: float) -> None:
    rng = np.random.default_rng(3)
    student, teacher = rng.normal(size=(3, 5)), 3 * rng.normal(size=(3, 5))
    target, predicted = log_softmax(teacher / temperature), log_softmax(student / temperature)

    def loss(student: jax.Array) -> jax.Array:
        return knowledge_distillation(
            student_logits=student, teacher_logits=jnp.asarray(teacher, jnp.float32), temperature=temperature
        )

    expected = temperature**2 * np.sum(np.exp(target) * (target - predicted), axis=1)
    np.testing.assert_allclose(loss(jnp.asarray(student, jnp.float32)), expected, rtol=1e-4, atol=1e-6)
    gradient = jax.grad(lambda student: loss(student).sum())(jnp.asarray(student, jnp.float32))
    # By hand: temperature^2 / temperature x (softmax of the student - softmax of the teacher).
    np.testing.assert_allclose(gradient, temperature * (np.exp(predicted) - np.exp(target)), rtol=1e-3, atol=1e-5)


def test_knowledge_distillation_is_zero_where_both_agree_up_to_a_constant() -> None:
    logits = jnp.array([[1.0, -2.0, 30.0]])
    np.testing.assert_allclose(
        knowledge_distillation(student_logits=logits + 5.0, teacher_logits=logits), [0.0], atol=1e-5
    )
