"""Intervals of error rates whose pairs share classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from twinsight_core.calibration import ScoredPairs
from twinsight_core.evaluation.fitting import fit_calibration
from twinsight_core.evaluation.intervals import wilson_interval
from twinsight_core.training.findings import class_pairs


def drawn(classes: int, pictures: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of pictures and their classes, which differ in how far their pictures lie apart."""
    rng = np.random.default_rng(seed)
    centres, spread = rng.normal(size=(classes, 1, 16)), rng.uniform(0.2, 1.2, size=(classes, 1, 1))
    vectors = (centres + spread * rng.normal(size=(classes, pictures, 16))).reshape(-1, 16)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.repeat(np.arange(classes), pictures)


def test_the_intervals_of_pairs_that_share_classes_hold_the_rates_of_other_classes() -> None:
    many, _ = drawn(4000, 2, seed=0)
    same = np.sum(many[::2] * many[1::2], axis=1)
    different = np.concatenate([np.sum(many * np.roll(many, 2 * step, axis=0), axis=1) for step in range(1, 40)])
    fit, _ = class_pairs(*drawn(60, 10, seed=1), None, each=4000, seed=0)
    held, held_by_wilson = list[bool](), list[bool]()
    for seed in range(30):
        pairs, _ = class_pairs(*drawn(20, 20, seed=100 + seed), None, each=20_000, seed=0)
        for of, measure in ((held, pairs), (held_by_wilson, replace(pairs, classes=None))):
            found = fit_calibration(fit=fit, measure=measure, meaning="m", false_match_rate=0.01)
            for one in found.operating_points:
                of.append(one.false_match_rate_low <= (different >= one.threshold).mean() <= one.false_match_rate_high)
                missed = (same < one.threshold).mean()
                of.append(one.false_non_match_rate_low <= missed <= one.false_non_match_rate_high)
    assert np.mean(held) >= 0.88
    assert np.mean(held_by_wilson) < 0.5  # what there is to mend


def test_an_interval_over_classes_is_never_narrower_than_that_over_pairs() -> None:
    pairs, _ = class_pairs(*drawn(20, 20, seed=7), None, each=500, seed=0)
    fit, _ = class_pairs(*drawn(60, 10, seed=1), None, each=4000, seed=0)
    apart = replace(pairs, cosine=np.where(pairs.same, pairs.cosine, -1.0))  # none passes, whatever classes are drawn
    for measure in (pairs, apart):
        wide, narrow = (
            fit_calibration(fit=fit, measure=one, meaning="m", false_match_rate=0.01)
            for one in (measure, replace(measure, classes=None))
        )
        assert wide.false_match_rate == narrow.false_match_rate
        for name in ("false_match_rate", "false_non_match_rate"):
            for of in ((wide, narrow), *zip(wide.operating_points, narrow.operating_points, strict=True)):
                ends = [(getattr(one, f"{name}_low"), getattr(one, f"{name}_high")) for one in of]
                assert ends[0][0] <= ends[1][0] <= ends[1][1] <= ends[0][1]
    assert wide.false_match_rate_high == wilson_interval(0, 500)[1]


def test_classes_of_another_number_than_the_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^`classes` \(2,\) must be \(2, 2\), two a pair\.$"):
        ScoredPairs(cosine=np.zeros(2), same=np.array([True, False]), classes=np.zeros(2))
