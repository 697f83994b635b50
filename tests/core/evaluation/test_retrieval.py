import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.evaluation import retrieval
from twinsight_core.evaluation.retrieval import retrieval_scores


def on_circle(degrees: list[float]) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_scores_worked_by_hand() -> None:
    # On a circle: class 0 at 0, 9 and 31 degrees, class 1 at 20 and 100.
    scores = retrieval_scores(on_circle([0, 9, 31, 20, 100]), np.array([0, 0, 0, 1, 1]), ks=(1, 2, 4, 9))
    # The order from 0: 9, 20, 31, 100. From 9: 0, 20, 31. From 31: 20, 9, 0. From 20: 9, 31, 0, 100 (9 and 31 equal).
    # From 100: 31, 20.
    assert scores.recall_at_k == pytest.approx({1: 2 / 5, 2: 4 / 5, 4: 1.0, 9: 1.0})
    # R is 2, 2, 2, 1, 1.
    assert scores.r_precision == pytest.approx((1 / 2 + 1 / 2 + 1 / 2 + 0 + 0) / 5)
    assert scores.map_at_r == pytest.approx((1 / 2 + 1 / 2 + 1 / 4 + 0 + 0) / 5)
    assert scores.queries == 5


def test_a_picture_alone_in_its_class_is_no_query() -> None:
    scores = retrieval_scores(on_circle([0, 1, 2, 90, 91, 180]), np.array([4, 4, 4, 7, 7, 9]))
    assert (scores.recall_at_k[1], scores.r_precision, scores.map_at_r, scores.queries) == (1.0, 1.0, 1.0, 5)


def reference(embeddings: np.ndarray, labels: np.ndarray, k: int) -> tuple[float, float, float]:
    """Recall@k, R-precision and MAP@R by the definition, one query at a time."""
    recalls, shares, precisions = [], [], []
    for query in range(len(labels)):
        others = [i for i in range(len(labels)) if i != query]
        ranked = sorted(others, key=lambda i: -float(embeddings[query] @ embeddings[i]))
        hits = [bool(labels[i] == labels[query]) for i in ranked]
        r = sum(hits)
        if r:
            recalls.append(any(hits[:k]))
            shares.append(sum(hits[:r]) / r)
            precisions.append(sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / r)
    return float(np.mean(recalls)), float(np.mean(shares)), float(np.mean(precisions))


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(4, 30),
    classes=st.integers(1, 4),
    k=st.integers(1, 40),
    rows=st.integers(1, 40),
    seed=st.integers(0),
)
def test_scores_equal_the_definition_whatever_the_blocks(
    count: int, classes: int, k: int, rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(count, 6)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = np.concatenate([[0, 0], rng.integers(0, classes, count - 2)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_BLOCK_VALUES", rows * count)
        scores = retrieval_scores(embeddings, labels, ks=(k,))
    found = (scores.recall_at_k[k], scores.r_precision, scores.map_at_r)
    assert found == pytest.approx(reference(embeddings, labels, k))


def test_a_large_set_takes_little_memory() -> None:
    rng = np.random.default_rng(0)
    embeddings, labels = rng.normal(size=(6_000, 16)).astype(np.float32), rng.integers(0, 3, 6_000)
    tracemalloc.start()
    retrieval_scores(embeddings, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All similarities at once, their order and the hits would take more than 600 MiB.
    assert peak < 200 * 2**20


@pytest.mark.parametrize(
    ("embeddings", "labels", "ks", "message"),
    [
        (np.eye(2), [0, 1], (1,), "`labels` must have a class with two pictures."),
        (np.eye(2), [0], (1,), "`embeddings` (2, 2) must be [count, dimension] and `labels` (1,) [count]."),
        (np.eye(2), [0, 0], (0, 1), "`ks` (=(0, 1)) must hold numbers of at least 1."),
        (np.full((2, 2), np.nan), [0, 0], (1,), "`embeddings` must be finite."),
    ],
)
def test_what_can_not_be_scored_is_refused(
    embeddings: np.ndarray, labels: list[int], ks: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        retrieval_scores(embeddings, np.array(labels), ks=ks)
