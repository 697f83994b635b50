from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twinsight_core.losses import (
    arcface,
    contrastive,
    supervised_contrastive,
    triplet_batch_hard,
    triplet_semi_hard,
)

NumericGradient = Callable[[Callable[[np.ndarray], float], np.ndarray], np.ndarray]
Triplet = Callable[..., jax.Array]


def unit(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    rows = rng.normal(size=(count, dimension))
    normalised: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normalised


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


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
def test_supervised_contrastive_and_its_gradient_equal_a_float64_reference(
    temperature: float, numeric_gradient: NumericGradient
) -> None:
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


# On a line: class 0 at 0 and 3, class 1 at 2 and 5, class 2 at 10 alone.
ON_A_LINE = jnp.array([[0.0], [3.0], [2.0], [5.0], [10.0]])
ON_A_LINE_LABELS = jnp.array([0, 0, 1, 1, 2])


def test_batch_hard_worked_by_hand() -> None:
    loss = triplet_batch_hard(embeddings=ON_A_LINE, labels=ON_A_LINE_LABELS, margin=1.0)
    # Farthest positive 3 for all; closest negatives 2, 1, 1, 2. The fifth has no positive.
    np.testing.assert_allclose(loss, [2.0, 3.0, 3.0, 2.0, 0.0], rtol=1e-5)


def test_semi_hard_worked_by_hand() -> None:
    loss = triplet_semi_hard(embeddings=ON_A_LINE, labels=ON_A_LINE_LABELS, margin=20.0)
    # Squared distance to the positive 9. Farther negatives of 0: 25 and 100, so 20 + 9 - 25. Of 3: 49 alone, beyond the
    # margin. Of 2: 64. Of 5: 25 (0 and 10 are equally far).
    np.testing.assert_allclose(loss, [4.0, 0.0, 0.0, 4.0, 0.0], atol=1e-4)


def test_semi_hard_takes_the_farthest_negative_where_none_is_farther_than_the_positive() -> None:
    embeddings, labels = jnp.array([[0.0], [10.0], [1.0], [2.0]]), jnp.array([0, 0, 1, 1])
    loss = triplet_semi_hard(embeddings=embeddings, labels=labels, margin=0.5)
    # 0: negatives at 1 and 4, the positive at 100. 10: negatives at 81 and 64. 1 and 2: the positive at 1; farther
    # negatives at 81 (0 is as far as the positive) and at 4.
    np.testing.assert_allclose(loss, [96.5, 19.5, 0.0, 0.0], rtol=1e-5)


def reference_batch_hard(embeddings: np.ndarray, labels: np.ndarray, margin: float) -> np.ndarray:
    losses = np.zeros(len(labels))
    for a in range(len(labels)):
        distances = np.linalg.norm(embeddings - embeddings[a], axis=1)
        positives = [distances[j] for j in range(len(labels)) if labels[j] == labels[a] and j != a]
        negatives = [distances[j] for j in range(len(labels)) if labels[j] != labels[a]]
        if positives and negatives:
            losses[a] = max(0.0, margin + max(positives) - min(negatives))
    return losses


def reference_semi_hard(embeddings: np.ndarray, labels: np.ndarray, margin: float) -> np.ndarray:
    losses = np.zeros(len(labels))
    for a in range(len(labels)):
        squares = np.sum((embeddings - embeddings[a]) ** 2, axis=1)
        negatives = [squares[j] for j in range(len(labels)) if labels[j] != labels[a]]
        each = []
        for p in range(len(labels)):
            if p == a or labels[p] != labels[a] or not negatives:
                continue
            farther = [one for one in negatives if one > squares[p]]
            each.append(max(0.0, margin + squares[p] - (min(farther) if farther else max(negatives))))
        losses[a] = np.mean(each) if each else 0.0
    return losses


@pytest.mark.parametrize(
    ("loss", "reference"),
    [(triplet_batch_hard, reference_batch_hard), (triplet_semi_hard, reference_semi_hard)],
    ids=["batch hard", "semi-hard"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_triplet_losses_and_their_gradients_equal_a_float64_reference(
    loss: Triplet,
    reference: Callable[[np.ndarray, np.ndarray, float], np.ndarray],
    seed: int,
    numeric_gradient: NumericGradient,
) -> None:
    embeddings, labels = unit(np.random.default_rng(seed), 9, 3), np.array([0, 0, 0, 1, 1, 1, 2, 2, 3])
    expected = reference(embeddings, labels, 0.4)
    given = jnp.asarray(embeddings, jnp.float32)
    assert (expected > 0).sum() > 3
    found = loss(embeddings=given, labels=jnp.asarray(labels), margin=0.4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    gradient = jax.grad(lambda embeddings: loss(embeddings=embeddings, labels=jnp.asarray(labels), margin=0.4).sum())(
        given
    )
    numeric = numeric_gradient(lambda embeddings: float(reference(embeddings, labels, 0.4).sum()), embeddings)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("loss", [triplet_batch_hard, triplet_semi_hard], ids=["batch hard", "semi-hard"])
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [0, 0, 1]])
def test_triplet_gradients_stay_finite_on_collapsed_embeddings(loss: Triplet, labels: list[int]) -> None:
    embeddings = jnp.ones((3, 2))
    values = loss(embeddings=embeddings, labels=jnp.array(labels), margin=0.3)
    counts = labels == [0, 0, 1]
    np.testing.assert_allclose(values, [0.3, 0.3, 0.0] if counts else 0.0, atol=1e-6)
    gradient = jax.grad(lambda embeddings: loss(embeddings=embeddings, labels=jnp.array(labels), margin=0.3).sum())(
        embeddings
    )
    assert jnp.isfinite(gradient).all()


def test_arcface_worked_by_hand() -> None:
    # 60 degrees from its own centre, 30 from the other; with a margin of 30 degrees its own counts as 90.
    embedding = jnp.array([[2 * np.cos(np.pi / 3), 2 * np.sin(np.pi / 3)]])
    loss = arcface(
        embeddings=embedding,
        centres=jnp.array([[5.0, 0.0], [0.0, 0.1]]),
        labels=jnp.array([0]),
        margin=np.pi / 6,
        scale=2.0,
    )
    own, other = 2 * np.cos(np.pi / 2), 2 * np.cos(np.pi / 6)
    np.testing.assert_allclose(loss, [np.log(np.exp(own) + np.exp(other)) - own], rtol=1e-5)


def reference_arcface(
    embeddings: np.ndarray, centres: np.ndarray, labels: np.ndarray, margin: float, scale: float
) -> np.ndarray:
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = directions @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T
    for row, label in enumerate(labels):
        angle = np.arccos(cosine[row, label])
        within = angle + margin < np.pi
        cosine[row, label] = np.cos(angle + margin) if within else np.cos(angle) - margin * np.sin(margin)
    values: np.ndarray = -log_softmax(scale * cosine)[np.arange(len(labels)), labels]
    return values


@pytest.mark.parametrize(("margin", "scale"), [(0.0, 8.0), (0.5, 16.0)])
def test_arcface_and_its_gradients_equal_a_float64_reference(
    margin: float, scale: float, numeric_gradient: NumericGradient
) -> None:
    rng = np.random.default_rng(6)
    embeddings, centres, labels = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), np.array([0, 1, 2, 3, 0])
    # One almost opposite its centre, beyond pi - margin.
    embeddings[4] = -centres[0] + 0.1 * rng.normal(size=3)

    def reference(embeddings: np.ndarray, centres: np.ndarray) -> float:
        return float(reference_arcface(embeddings, centres, labels, margin, scale).sum())

    def loss(embeddings: jax.Array, centres: jax.Array) -> jax.Array:
        return arcface(embeddings=embeddings, centres=centres, labels=jnp.asarray(labels), margin=margin, scale=scale)

    given = jnp.asarray(embeddings, jnp.float32), jnp.asarray(centres, jnp.float32)
    expected = reference_arcface(embeddings, centres, labels, margin, scale)
    np.testing.assert_allclose(loss(*given), expected, rtol=1e-4, atol=1e-4)
    by_embeddings, by_centres = jax.grad(lambda *values: loss(*values).sum(), argnums=(0, 1))(*given)
    numeric = numeric_gradient(lambda values: reference(values, centres), embeddings)
    np.testing.assert_allclose(by_embeddings, numeric, rtol=2e-3, atol=2e-3)
    numeric = numeric_gradient(lambda values: reference(embeddings, values), centres)
    np.testing.assert_allclose(by_centres, numeric, rtol=2e-3, atol=2e-3)


def test_arcface_rises_with_the_angle_and_stays_finite_from_end_to_end() -> None:
    angles = np.linspace(0.0, np.pi, 721)
    embeddings = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1), jnp.float32)

    def loss(embeddings: jax.Array) -> jax.Array:
        # The other centre is at a right angle to all: the label's logit alone changes.
        lifted = jnp.pad(embeddings, ((0, 0), (0, 1)))
        centres = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        return arcface(embeddings=lifted, centres=centres, labels=jnp.zeros(len(lifted), int), scale=4.0)

    assert (np.diff(np.asarray(loss(embeddings))) > -1e-6).all()
    gradient = jax.grad(lambda embeddings: loss(embeddings).sum())(embeddings)
    assert jnp.isfinite(gradient).all()


def test_arcface_of_a_vector_of_length_zero_is_finite() -> None:
    def loss(embeddings: jax.Array) -> jax.Array:
        return arcface(embeddings=embeddings, centres=jnp.eye(2), labels=jnp.array([0])).sum()

    value, gradient = jax.value_and_grad(loss)(jnp.zeros((1, 2)))
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()
