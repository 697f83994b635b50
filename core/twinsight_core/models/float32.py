"""Computes products of float32 numbers in float32 on every device.

By default JAX rounds factors to bfloat16 on a TPU and to TF32, with 10 bits of precision, on NVIDIA's newer GPUs.
Reference outputs and scores are computed without that; on CPUs there is no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar, cast

import jax

RunT = TypeVar("RunT", bound=Callable[..., object])


def in_float32(run: RunT) -> RunT:
    """Returns a function, to be called or traced, whose products of float32 numbers are only rounded to float32.

    Products of other types are not affected.
    """

    @wraps(run)
    def exact(*args: object, **kwargs: object) -> object:
        with jax.default_matmul_precision("highest"):
            return run(*args, **kwargs)

    return cast("RunT", exact)
