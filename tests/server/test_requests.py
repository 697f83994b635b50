"""Messages of requests as core has them."""

from __future__ import annotations

import numpy as np
import pytest

from twinsight.v1 import types_pb2
from twinsight_core.errors import InvalidInput
from twinsight_core.images import Region
from twinsight_server.convert import requests


def image(x_max: float) -> types_pb2.Image:
    region = types_pb2.Box(x_min=-1e-7, y_min=0.25, x_max=x_max, y_max=1.0)
    return types_pb2.Image(encoded=b"any", region=region)


def test_a_region_that_rounding_carried_over_the_edge_ends_there() -> None:
    x_max = np.float32(0.7) + np.float32(0.3000001)
    assert x_max > 1
    assert requests.picture(image(float(x_max)), field="image").region == Region(0.0, 0.25, 1.0, 1.0)


def test_a_region_that_is_outside_is_refused_with_its_numbers() -> None:
    with pytest.raises(InvalidInput, match=r"^`region` \(=0, 0\.25, 1\.00000203, 1\) must have 0 <= x_min"):
        requests.picture(image(1.000002), field="image")
