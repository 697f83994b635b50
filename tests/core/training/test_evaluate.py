import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.errors import TrainingError
from twinsight_core.evaluation.retrieval import retrieval_scores
from twinsight_core.training.evaluate import copy_recall, in_batches


def on_circle(degrees: list[float]) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_map_at_r_worked_by_hand() -> None:
    # On a circle: class 0 at 0, 9 and 31 degrees, class 1 at 20 and 100.
    score = retrieval_scores(on_circle([0, 9, 31, 20, 100]), np.array([0, 0, 0, 1, 1]))
    # 0 and 9 have R = 2 and find each other, then 20: (1/1 + 0) / 2. 31 finds 20, then 9 at precision 1/2: (1/2) / 2.
    # 20 has R = 1 and finds 9 or 31; 100 finds 31: 0.
    assert score.map_at_r == pytest.approx((0.5 + 0.5 + 0.25 + 0 + 0) / 5)
    assert score.recall_at_k[1] == pytest.approx(2 / 5)
    assert score.queries == 5


def test_classes_that_separate_score_one() -> None:
    score = retrieval_scores(on_circle([0, 1, 2, 90, 91, 180]), np.array([4, 4, 4, 7, 7, 9]))
    # The last picture is alone in its class: it can be found, but there is nothing to look for with it.
    assert (score.recall_at_k[1], score.map_at_r, score.queries) == (1.0, 1.0, 5)


def reference(embeddings: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """MAP@R and Recall@1 by the definition, one query at a time."""
    precisions, firsts = [], []
    for query in range(len(labels)):
        others = [i for i in range(len(labels)) if i != query]
        ranked = sorted(others, key=lambda i: -float(embeddings[query] @ embeddings[i]))
        r = sum(labels[i] == labels[query] for i in others)
        if not r:
            continue
        hits = [labels[i] == labels[query] for i in ranked[:r]]
        precisions.append(sum(sum(hits[: i + 1]) / (i + 1) for i in range(r) if hits[i]) / r)
        firsts.append(labels[ranked[0]] == labels[query])
    return float(np.mean(precisions)), float(np.mean(firsts))


@settings(deadline=None, max_examples=30)
@given(count=st.integers(4, 30), classes=st.integers(1, 4), seed=st.integers(0, 2**31 - 1))
def test_scores_equal_the_definition(count: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(count, 6)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = np.concatenate([[0, 0], rng.integers(0, classes, count - 2)])
    score = retrieval_scores(embeddings, labels)
    assert (score.map_at_r, score.recall_at_k[1]) == pytest.approx(reference(embeddings, labels))


def test_pictures_that_are_all_alone_can_not_be_scored() -> None:
    with pytest.raises(ValueError, match=r"^`labels` must have a class with two pictures\.$"):
        retrieval_scores(on_circle([0, 1]), np.array([0, 1]))


def test_a_copy_counts_when_its_original_is_closest() -> None:
    gallery = on_circle([0, 50, 100])
    assert copy_recall(on_circle([5, 60, 20]), gallery, np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_batches_are_of_one_size_and_the_filling_is_cut_off() -> None:
    seen = []

    def run(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return images.reshape(len(images), -1)[:, :1].astype(np.float32)

    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(3, axis=3)
    np.testing.assert_array_equal(in_batches(run, images, batch=2)[:, 0], [0, 1, 2, 3, 4])
    assert seen == [2, 2, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_refused(value: float) -> None:
    answers = np.ones((3, 2), np.float32)
    answers[2, 1] = value
    with pytest.raises(TrainingError, match=r"^The network's outputs are not finite; its weights are too large\.$"):
        in_batches(lambda part: answers[: len(part)], np.zeros((3, 4, 4, 3), np.uint8), batch=3)
