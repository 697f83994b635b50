"""Pairs of pictures and edited copies, for the calibration of an embedding of photographs."""

from __future__ import annotations

import numpy as np
import pytest

from twinsight_core.calibration import Calibration, ScoredPairs
from twinsight_core.evaluation.fitting import fit_calibration
from twinsight_core.training.edits import EDITS
from twinsight_core.training.measure import Copies, Gallery, copy_pairs

DIMENSION = 16


@pytest.fixture
def among() -> Gallery:
    """Six classes of eight pictures; those of a class lie together."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(6), 8)
    return Gallery(
        embeddings=_unit(rng.normal(size=(6, DIMENSION))[labels] + rng.normal(size=(48, DIMENSION))),
        labels=labels,
        sets=np.zeros(48, np.int64),
        rows=np.arange(48),
    )


@pytest.fixture
def copies(among: Gallery) -> Copies:
    """Every edit of every picture; those of odd classes are far from their originals."""
    rng = np.random.default_rng(4)
    originals = np.tile(np.arange(48), len(EDITS))
    moved = rng.normal(size=(len(originals), DIMENSION)) * np.where(among.labels[originals] % 2, 0.8, 0.01)[:, None]
    return Copies(
        originals=originals,
        kinds=np.repeat(list(EDITS), 48),
        embeddings=_unit(among.embeddings[originals] + moved),
    )


def test_each_copy_makes_a_same_and_a_different_pair_of_known_classes(among: Gallery, copies: Copies) -> None:
    pairs = copy_pairs(copies, among, seed=5)

    count = len(copies.originals)
    assert pairs.same.tolist() == [True] * count + [False] * count
    assert pairs.cosine[:count] == pytest.approx(np.sum(copies.embeddings * among.embeddings[copies.originals], axis=1))
    assert pairs.classes is not None
    own = among.labels[copies.originals]
    assert pairs.classes[:count].tolist() == np.stack([own, own], axis=1).tolist()
    assert pairs.classes[count:, 0].tolist() == own.tolist()
    # By turns another class and its own.
    assert (pairs.classes[count::2, 1] != own[::2]).all()
    assert (pairs.classes[count + 1 :: 2, 1] == own[1::2]).all()


def test_the_other_picture_of_a_different_pair_is_of_the_class_that_is_told(among: Gallery, copies: Copies) -> None:
    pairs = copy_pairs(copies, among, seed=5)

    assert pairs.classes is not None
    for number, original in enumerate(copies.originals.tolist()):
        cosines = among.embeddings @ copies.embeddings[number]
        cosines[original] = np.nan  # never the original itself
        of_class = cosines[among.labels == pairs.classes[len(copies.originals) + number, 1]]
        assert np.nanmin(np.abs(of_class - pairs.cosine[len(copies.originals) + number])) < 1e-6


def test_error_rates_have_intervals_over_classes(among: Gallery, copies: Copies) -> None:
    """Copies of some classes are hard to recognise: how many of a picture's copies fail is no independent count."""
    pairs = copy_pairs(copies, among, seed=5)
    independent = ScoredPairs(pairs.cosine, pairs.same)

    over_classes, over_pairs = (
        fit_calibration(fit=one, measure=one, meaning="They are alike.", false_match_rate=0.01)
        for one in (pairs, independent)
    )

    assert over_classes.false_non_match_rate == over_pairs.false_non_match_rate > 0
    assert _width(over_classes) > 2 * _width(over_pairs)


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _width(calibration: Calibration) -> float:
    low, high = calibration.false_non_match_rate_low, calibration.false_non_match_rate_high
    assert low is not None
    assert high is not None
    return high - low
