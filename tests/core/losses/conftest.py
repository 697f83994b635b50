from collections.abc import Callable

import numpy as np
import pytest

NumericGradient = Callable[[Callable[[np.ndarray], float], np.ndarray], np.ndarray]


@pytest.fixture(scope="session")
def numeric_gradient() -> NumericGradient:
    """Central differences of a float64 scalar function."""

    def differences(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
        gradient = np.zeros_like(at)
        for place in np.ndindex(at.shape):
            step = np.zeros_like(at)
            step[place] = 1e-5
            gradient[place] = (function(at + step) - function(at - step)) / 2e-5
        return gradient

    return differences
