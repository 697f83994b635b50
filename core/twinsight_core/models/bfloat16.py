"""Networks computed in bfloat16, as the matrix units of GPUs and TPUs are fastest at.

The trunk (a network's `trunk`: the modules before its head) multiplies and stores in bfloat16, half the bytes of
float32 with its range and 8 bits of precision; products are summed in float32. The head, softmax, lengths and boxes
stay in float32; in training a head's products are whatever JAX does with float32 on the device (see `float32`). Maps
within a trunk that are documented as float32 are then bfloat16.

Source: Kalamkar et al., "A Study of BFLOAT16 for Deep Learning Training", 2019 (arXiv:1905.12322).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx


@runtime_checkable
class HasTrunk(Protocol):
    """A network whose first part tolerates less precision."""

    @property
    def trunk(self) -> Sequence[nnx.Module]:
        """The modules before the head, which do most of the work."""
        ...


ModuleT = TypeVar("ModuleT", bound=nnx.Module)

_TYPED = (nnx.Conv, nnx.Linear, nnx.BatchNorm, nnx.GroupNorm)
"""Flax's layers, which compute in the type that their `dtype` says. Our own follow the type of their input."""


def in_bfloat16(network: ModuleT, *, weights: bool = False) -> ModuleT:
    """Returns a copy whose trunk computes in bfloat16.

    Args:
        network: one with a `trunk`; others are returned unchanged.
        weights: for serving: also keep the trunk's weights in bfloat16, which an optimiser needs in float32, and round
            nothing that the head multiplies.
    """
    if not isinstance(network, HasTrunk):
        return network
    copy = nnx.clone(network)
    trunk = {id(module) for part in copy.trunk for _, module in nnx.iter_modules(part)}
    for _, module in nnx.iter_modules(copy):
        if id(module) in trunk:
            if isinstance(module, _TYPED):
                module.dtype = jnp.bfloat16
        elif weights and isinstance(module, nnx.Conv | nnx.Linear):
            module.precision = jax.lax.Precision.HIGHEST
    if weights:
        for part in copy.trunk:
            kept = nnx.state(part, nnx.Param)
            nnx.update(part, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), kept))
    return copy
