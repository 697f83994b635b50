"""Whether vectors may be kept or searched for, known of many at once."""

from __future__ import annotations

import numpy as np
import pytest

from twinsight_core.errors import InvalidInput
from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec, are_fit, check_vector

LENGTHS = (0.0, 1e-44, 1e-30, 1.0, 0.999e18, 1.001e18, 3e38, np.inf, np.nan)


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("length", LENGTHS)
def test_vectors_are_fit_if_each_is(metric: Metric, length: float) -> None:
    spec = CollectionSpec("a", 3, metric)
    one = np.array([0.0, length, 0.0], np.float32)
    try:
        check_vector(one, spec)
        fit = True
    except InvalidInput:
        fit = False
    good = np.ones(3, np.float32)
    assert are_fit(np.stack([good, one, good]), spec) == fit


@pytest.mark.parametrize("vectors", [np.ones((2, 4), np.float32), np.ones((2, 3)), np.ones(3, np.float32)])
def test_vectors_of_another_shape_or_type_are_not_fit(vectors: np.ndarray) -> None:
    assert not are_fit(vectors, CollectionSpec("a", 3, Metric.DOT))
