"""Computes batches with XLA on whatever device JAX has: CPU, GPU or TPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from twinsight_core.host.compilation import begin_compiling
from twinsight_core.images import Preprocessing
from twinsight_core.models.bfloat16 import in_bfloat16
from twinsight_core.models.float32 import in_float32
from twinsight_core.models.folding import fold_batch_norm
from twinsight_core.models.precision import Precision

IN_FLIGHT = 2
"""Batches in flight per device: one is transferred while another is computed."""


class XlaExecutor:
    """Compiles a network ahead of time, once for each batch size, its batch norms folded into the layers before them.

    The weights stay on the device and are arguments of the compiled function, not constants in it: compilation is
    faster and all batch sizes share one copy. A call makes one transfer in (uint8) and one out (float32).
    """

    def __init__(
        self,
        module: Callable[[jax.Array], jax.Array],
        preprocessing: Preprocessing,
        *,
        precision: Precision = "f32",
    ) -> None:
        """Takes the network.

        Args:
            module: a Flax NNX module in evaluation mode, [batch, height, width, 3] uint8 -> [batch, *answer] float32.
            preprocessing: says height and width.
            precision: of the products of the network's trunk, if it has one.
        """
        begin_compiling()
        # 5.7 % less time for one picture with `base` on two CPU cores, 2 % for eight.
        serving = fold_batch_norm(module) if isinstance(module, nnx.Module) else module
        if precision == "bf16" and isinstance(serving, nnx.Module):
            serving = in_bfloat16(serving, weights=True)
        self._precision = precision
        self._graph, weights = nnx.split(serving)
        self._device = jax.devices()[0]
        self._weights = jax.device_put(weights, self._device)
        self._image_shape = (preprocessing.height_px, preprocessing.width_px, 3)
        self._compiled: dict[int, jax.stages.Compiled] = {}

    @property
    def name(self) -> str:
        """`xla:`, the device's platform and the precision."""
        return f"xla:{self._device.platform}:{self._precision}"

    @property
    def on_host(self) -> bool:
        """Whether JAX has no accelerator."""
        return str(self._device.platform) == "cpu"

    @property
    def is_single_threaded(self) -> bool:
        """XLA has threads of its own."""
        return False

    def lanes(self) -> Sequence[XlaExecutor]:
        """Returns each device's executor twice, the same ones each time: a program may run in several threads."""
        return [self, *self._others] * IN_FLIGHT

    @cached_property
    def _others(self) -> list[XlaExecutor]:
        return [self._on(number) for number in range(1, len(jax.devices()))]

    def prepare(self, *batch_sizes: int) -> None:
        """Compiles for each size, or loads it from the persistent cache; skips sizes that are prepared."""
        here = jax.sharding.SingleDeviceSharding(self._device)
        for size in batch_sizes:
            if size not in self._compiled:
                images = jax.ShapeDtypeStruct((size, *self._image_shape), jnp.uint8, sharding=here)
                run = in_float32(self._run) if self._precision == "f32" else self._run
                self._compiled[size] = jax.jit(run).lower(self._weights, images).compile()

    def compute(self, images: np.ndarray) -> np.ndarray:
        """Runs the model on one batch of a prepared size; see `Executor.compute`."""
        return np.asarray(self.dispatch(images))

    def dispatch(self, images: np.ndarray | jax.Array) -> jax.Array:
        """Works like `compute`, but returns before the output is there, so that the next batch can be transferred."""
        answer: jax.Array = self._compiled[len(images)](self._weights, jax.device_put(images, self._device))
        return answer

    def _on(self, number: int) -> XlaExecutor:
        """Returns a copy of this executor on another of JAX's devices."""
        other = copy(self)
        other._device = jax.devices()[number]
        other._weights = jax.device_put(self._weights, other._device)
        other._compiled = {}
        return other

    def _run(self, weights: nnx.State[str | int, jax.Array], images: jax.Array) -> jax.Array:
        network = nnx.merge(self._graph, weights)
        return network(images)
