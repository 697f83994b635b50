"""An XLA executor on several devices."""

from __future__ import annotations

import os
import subprocess
import sys

ON_TWO_DEVICES = """
from functools import partial
import jax, numpy as np
from twinsight_core.models.first_weights import drawn
from twinsight_core.host.compilation import CompilationCounter
from twinsight_core.engine import Engine
from twinsight_core.executors.xla import XlaExecutor
from twinsight_core.images import Preprocessing
from twinsight_core.models.mobilenet import MobileNetConfig
from twinsight_core.models.siamese import SiameseConfig, SiameseNetwork

assert jax.device_count() == 2
config = SiameseConfig(backbone=MobileNetConfig(width_multiplier=0.1), dimension=16)
network = drawn(partial(SiameseNetwork, config=config), seed=0)
network.eval()
size = Preprocessing(height_px=32, width_px=32)
engine = Engine(XlaExecutor(network, size), size, answer_shape=(16,), buckets=(1, 2))
engine.warm_up()
picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
answers = [engine.lane(lane)([picture, picture]) for lane in range(engine.lanes)]
np.testing.assert_allclose(answers, [[engine.infer_alone(picture)] * 2] * engine.lanes, atol=2e-6)
compiled = CompilationCounter()
for lane in range(engine.lanes):  # as after one that hung
    engine.renew(lane)
assert compiled.count == 0, compiled.count
print(engine.lanes, sorted({str(device) for one in engine._lanes for device in one.dispatch(picture[None]).devices()}))
"""


def test_every_device_has_two_lanes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES],
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(" ", 1) == ["4", "['cpu:0', 'cpu:1']\n"]
