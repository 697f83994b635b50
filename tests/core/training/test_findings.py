from itertools import combinations

import numpy as np
import pytest

from twinsight_core.calibration import ScoredPairs
from twinsight_core.errors import TrainingError
from twinsight_core.evaluation.detection import ANY_CLASS
from twinsight_core.training.boxes import BoxedImages
from twinsight_core.training.findings import (
    WORST,
    _precision_recall,
    class_pairs,
    classification_findings,
    detection_findings,
    embedding_findings,
    group_pairs,
    pair_findings,
)


def unit(rows: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    length_1: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return length_1


def test_pairs_are_distinct_and_of_what_they_say() -> None:
    labels, groups = np.repeat(np.arange(6), 10), np.repeat(np.arange(2), 30)
    pairs, rows = class_pairs(unit(60), labels, groups, each=100, seed=1)
    assert (pairs.same.sum(), len(rows)) == (100, 200)
    assert len({tuple(sorted(pair)) for pair in rows.tolist()}) == 200
    np.testing.assert_array_equal(labels[rows[:, 0]] == labels[rows[:, 1]], pairs.same)
    assert pairs.classes is not None
    np.testing.assert_array_equal(pairs.classes, labels[rows])
    assert (groups[rows[:, 0]] == groups[rows[:, 1]]).all()
    np.testing.assert_allclose(pairs.cosine, np.sum(unit(60)[rows[:, 0]] * unit(60)[rows[:, 1]], axis=1))


@pytest.mark.parametrize("in_groups", [False, True])
def test_all_pairs_come_where_no_fewer_are_wanted(in_groups: bool) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 40)
    groups = labels // 3 if in_groups else np.zeros(40, np.int64)
    pairs, rows = class_pairs(unit(40), labels, groups if in_groups else None, each=2000, seed=0)
    wanted = [(a, b) for a, b in combinations(range(40), 2) if labels[a] == labels[b] or groups[a] == groups[b]]
    assert sorted(map(tuple, rows.tolist())) == wanted
    assert pairs.same.sum() == sum(labels[a] == labels[b] for a, b in wanted)


def test_a_class_of_one_picture_among_many_others_has_all_its_pairs() -> None:
    labels = np.append(np.zeros(3000, np.int64), 1)
    pairs, rows = class_pairs(unit(3001), labels, None, each=2000, seed=0)
    assert (pairs.same.sum(), (~pairs.same).sum()) == (2000, 2000)
    assert len(np.unique(rows[~pairs.same], axis=0)) == 2000


def test_every_pair_is_as_likely_as_another() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    drawn = np.concatenate([class_pairs(unit(6), labels, None, each=1, seed=seed)[1] for seed in range(2200)])
    for same, count in ((True, 4), (False, 11)):
        of_kind = drawn[(labels[drawn[:, 0]] == labels[drawn[:, 1]]) == same]
        _, times = np.unique(of_kind, axis=0, return_counts=True)
        assert len(times) == count
        # Four standard deviations.
        assert np.abs(times - 2200 / count).max() < 4 * np.sqrt(2200 / count)


def test_pictures_that_make_no_pair_of_a_kind_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"^No two pictures of one class can be compared\.$"):
        class_pairs(unit(3), np.arange(3), None, each=5, seed=0)
    with pytest.raises(TrainingError, match=r"^No two pictures of two classes of one group can be compared\.$"):
        class_pairs(unit(4), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), each=5, seed=0)


def test_pairs_of_groups_stay_within_them_and_spread_over_them() -> None:
    labels = np.repeat(np.arange(7), 8)
    groups = np.array([0, 0, 0, 1, 1, 1, 2])[labels]  # the last group has one class
    # A place of its own for each group: pairs across groups would have a cosine of 0.
    embeddings = np.eye(3, dtype=np.float32)[groups]
    found = group_pairs(embeddings, labels, groups, each=120, seed=0)
    assert len(found) == 2
    for pairs in found:
        assert pairs.same.sum() == (~pairs.same).sum() == 40
        np.testing.assert_array_equal(pairs.cosine, 1.0)
        assert pairs.classes is not None
        np.testing.assert_array_equal(pairs.classes[:, 0] == pairs.classes[:, 1], pairs.same)


def test_groups_of_few_same_pairs_keep_their_different_ones() -> None:
    labels = np.repeat(np.arange(20), 2)
    found = group_pairs(unit(40), labels, labels // 10, each=400, seed=0)
    assert [(int(pairs.same.sum()), int((~pairs.same).sum())) for pairs in found] == [(10, 180), (10, 180)]


def test_the_worst_mistakes_of_a_list_are_its_pictures_with_their_cosines_the_most_certain_first() -> None:
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    cosine = np.linspace(-0.9, 1.0, 20)
    pairs = ScoredPairs(cosine=cosine, same=np.arange(20) % 2 == 0)
    found = pair_findings(
        pairs, None, rows=np.arange(40).reshape(20, 2), images=images, files=[f"{n}.png" for n in range(40)]
    )
    assert [one.caption for one in found.mistakes] == [
        *(f"different, cosine {cosine[n]:.2f}: {2 * n}.png / {2 * n + 1}.png" for n in (19, 17, 15, 13, 11, 9)),
        *(f"the same, cosine {cosine[n]:.2f}: {2 * n}.png / {2 * n + 1}.png" for n in (0, 2, 4, 6, 8, 10)),
    ]
    assert len(found.mistakes) == WORST
    assert found.protocol == (
        "10 same and 10 different pairs, as listed. verification_accuracy is at the best threshold on these pairs. "
        "Intervals are at 95 % and assume independent pairs."
    )
    assert [[int(picture[0, 0, 0]) for picture in one.pictures] for one in found.mistakes[:2]] == [[38, 39], [34, 35]]


@pytest.mark.parametrize(
    ("folds", "why"),
    [([7] * 8, "there is only one"), ([1, 1, 1, 1, 2, 2, 2, 2], "without one of them, all pairs are of one kind")],
)
def test_folds_that_leave_no_threshold_are_passed_over(folds: list[int], why: str) -> None:
    # Without the second fold all pairs are of one kind.
    scored = ScoredPairs(cosine=np.linspace(0.9, 0.1, 8), same=np.arange(8) < 4)
    images = np.zeros((2, 4, 4, 3), np.uint8)
    rows = np.tile([0, 1], (8, 1))
    found = pair_findings(scored, np.array(folds), rows=rows, images=images, files=("a.png", "b.png"))
    assert found.scores["verification_auc"] == 1.0
    assert "verification_accuracy_over_folds" not in found.scores
    assert f"4 same and 4 different pairs, as listed. No accuracy over folds: {why}. " in found.protocol


def test_classes_whose_probabilities_float32_can_not_hold_are_told_apart() -> None:
    # Of each picture all classes but the first have a probability that float32 takes for 0; the label is the fifth.
    logits = np.array([[0, -500, -400, -300, -200, -700, -600]], np.float32)
    images = np.zeros((1, 2, 2, 3), np.uint8)
    scores = classification_findings(logits, np.array([1]), images, "abcdefg", ["x/1.png"], which="one").scores
    assert (scores["top1_accuracy"], scores["top5_accuracy"]) == (0.0, 1.0)
    assert scores["negative_log_likelihood"] == pytest.approx(500)
    found = classification_findings(logits, np.array([5]), images, "abcdefg", ["x/1.png"], which="one")
    missed = found.scores
    assert [one.caption for one in found.mistakes] == ["x/1.png: f, predicted a (100%)"]
    assert missed["top5_accuracy"] == 0.0
    assert missed["negative_log_likelihood"] == pytest.approx(700)


@pytest.mark.parametrize("label", [0, ANY_CLASS])
def test_what_is_found_in_regions_to_be_ignored_is_no_mistake(label: int) -> None:
    pytest.importorskip("pycocotools")
    thing, region = [0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]
    data = BoxedImages(
        images=np.zeros((2, 20, 20, 3), np.uint8),
        boxes=np.array([[thing, region], [thing, region]], np.float32),
        labels=np.array([[0, label]] * 2, np.int32),
        valid=np.array([[True, False]] * 2),
        ignored=np.array([[False, True], [False, False]]),
        sizes=np.full((2, 2), 20, np.int32),
        classes=("cell",),
        files=("crowd.png", "miss.png"),
        left_out=3,
    )
    answers = np.zeros((2, 4, 6), np.float32)
    # Box, score and label: of the thing, and of two in the region, of which one is not sure.
    answers[0, :3] = [[*thing, 0.9, 0], [0.6, 0.6, 0.8, 0.8, 0.9, 0], [0.6, 0.6, 0.8, 0.8, 0.4, 0]]
    findings = detection_findings(answers, data, least_score=0.05, which="two")
    assert "2 pictures with 2 things, two. COCO's average precision of what scores at least 0.05;" in findings.protocol
    assert findings.protocol.endswith(" 3 pictures of the set can't be used and are left out.")
    assert [one.caption for one in findings.mistakes] == [
        "miss.png: 1 things (green), 0 found (red)",
        "crowd.png: 1 things (green), 1 found (red), 1 ignored regions (yellow)",
    ]


def test_the_worst_pairs_of_classes_are_told_by_their_files() -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 1, 0, 2, 2]]
    files = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(3)]
    found = embedding_findings(
        vectors, np.repeat([0, 1], 3), None, np.zeros((6, 2, 2, 3), np.uint8), files, which="six"
    )
    captions = [one.caption for one in found.mistakes]
    assert "different, cosine 1.00: cat/0.png / dog/0.png" in captions
    assert "the same, cosine 0.00: cat/0.png / cat/2.png" in captions


def test_precision_and_recall_have_no_threshold_between_equal_scores() -> None:
    recall, precision = _precision_recall(np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0, 1], bool))
    assert recall.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert precision.tolist() == pytest.approx([1, 2 / 4, 3 / 5])
