"""What networks are computed in."""

from __future__ import annotations

from typing import Literal

from twinsight_core.host.accelerators import has_accelerator

Precision = Literal["bf16", "f32"]
"""What a network's products are computed in; sums and the answer are float32 always."""


def best_precision() -> Precision:
    """Returns what JAX's device is fastest at: bfloat16 on a GPU or TPU, float32 on a CPU."""
    return "bf16" if has_accelerator() else "f32"
