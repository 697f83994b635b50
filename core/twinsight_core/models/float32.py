"""Products of float32 numbers that are float32 on every device.

Unless JAX is told otherwise, it rounds what is multiplied to bfloat16 on a TPU and to TF32, with 10 bits of precision,
on NVIDIA's newer GPUs. Answers that others are compared with, and scores, are computed without that; CPUs know no
difference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar, cast

import jax

RunT = TypeVar("RunT", bound=Callable[..., object])


def in_float32(run: RunT) -> RunT:
    """Returns a function, to be called or traced, whose products of float32 numbers are rounded to float32 alone.

    Products of other types stay as they are.
    """

    @wraps(run)
    def exact(*args: object, **kwargs: object) -> object:
        with jax.default_matmul_precision("highest"):
            return run(*args, **kwargs)

    return cast("RunT", exact)
