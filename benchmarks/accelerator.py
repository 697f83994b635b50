"""What a GPU or TPU makes of the networks and of exact search, beside what its memory and its arithmetic allow.

    python -m benchmarks.accelerator [--out FILE] [--batch 256] [--rows 1000000] [--block-rows 262144 ...]

1. The ceilings are measured first: a copy on the device, and a large product in bfloat16.
2. `base` runs as it is served, with the pixels on the device and from the host's memory. Its bound is the larger of the
   two times that its operations and its bytes take at the ceilings; a layer's bytes are its input, weights and output
   once each, everything else taken to be part of a layer.
3. A million vectors are searched exactly; the bound is the time to read them once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import ShapedArray
from jax.extend import core as jex

from benchmarks.environment import environment
from twinsight_core.executors.choice import choose_executor
from twinsight_core.executors.xla import XlaExecutor
from twinsight_core.index.base import Metric, prepared
from twinsight_core.index.device import DeviceCopy
from twinsight_core.index.exact import ExactIndex
from twinsight_core.models.bfloat16 import in_bfloat16
from twinsight_core.models.folding import fold_batch_norm
from twinsight_core.packages import ModelPackage, shipped_packages

RUNS = 5
_CONTRACTIONS = ("conv_general_dilated", "dot_general")


def time_ms(call: Callable[[], object], *, count: int = 20) -> float:
    """Returns the median over five runs of the time a call, in ms, of `count` calls under way one behind the other."""
    jax.block_until_ready(call())
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        for _ in range(count - 1):
            call()
        jax.block_until_ready(call())
        times.append((time.perf_counter() - begun) / count * 1e3)
    return median(times)


def ceilings(*, large: bool) -> dict[str, float]:
    """Returns the device's copy in GB/s, bytes read and written, and its product in bfloat16 in TFLOP/s."""
    side = 8192 if large else 512
    key = jax.random.key(0)
    matrix = jax.random.normal(key, (side, side), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    rate = 2 * side**3 / time_ms(lambda: product(matrix, matrix)) / 1e9
    block = jax.random.normal(key, (side, side * 8), jnp.float32)
    copy = jax.jit(lambda x: x * 2.0)
    moved = 2 * block.nbytes / time_ms(lambda: copy(block)) / 1e6
    return {"copy_gb_s": round(moved, 1), "bfloat16_tflop_s": round(rate, 2)}


def counted(package: ModelPackage, batch: int) -> tuple[float, float]:
    """Returns the operations and bytes that a batch needs at the least, in bfloat16."""
    network = package.build()
    if not isinstance(network, nnx.Module):
        raise TypeError("only networks of Flax can be counted")
    shape = (batch, package.card.preprocessing.height_px, package.card.preprocessing.width_px, 3)
    traced = jax.make_jaxpr(in_bfloat16(fold_batch_norm(network), weights=True))(jnp.zeros(shape, jnp.uint8))
    return _counted(traced.jaxpr)


def _counted(jaxpr: jex.Jaxpr) -> tuple[float, float]:
    operations = moved = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name in _CONTRACTIONS:
            out, weights = _array(equation.outvars[0]), _array(equation.invars[1])
            per_output = np.prod(weights.shape[:-1])  # a kernel [rows, columns, channels in, channels out], or a matrix
            operations += 2.0 * float(np.prod(out.shape)) * float(per_output)
            arrays = [_array(one) for one in (*equation.invars, *equation.outvars)]
            moved += sum(float(np.prod(one.shape)) * one.dtype.itemsize for one in arrays)
            continue
        inner = [one for one in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr) if _is_jaxpr(one)]
        # Of a choice by platform the last is the accelerators'.
        for one in inner[-1:] if equation.primitive.name == "cond" else inner:
            more = _counted(getattr(one, "jaxpr", one))
            operations, moved = operations + more[0], moved + more[1]
    return operations, moved


def _array(variable: jex.Var | jex.Literal) -> ShapedArray:
    kind = variable.aval
    if not isinstance(kind, ShapedArray):
        raise TypeError(f"{kind} is no array")
    return kind


def _is_jaxpr(value: object) -> bool:
    return isinstance(value, jex.Jaxpr | jex.ClosedJaxpr)


def compute(package: ModelPackage, batch: int, limits: dict[str, float], cache: Path) -> dict[str, object]:
    """Returns images a second of a model as it is served, and the share of the bound that is."""
    executor = choose_executor(package, "xla", cache_dir=cache)
    executor.prepare(batch)
    shape = (batch, package.card.preprocessing.height_px, package.card.preprocessing.width_px, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if not isinstance(executor, XlaExecutor):
        raise TypeError("not XLA's executor")
    there = jax.device_put(pixels)
    on_device = time_ms(lambda: executor.dispatch(there))
    from_host = time_ms(lambda: executor.compute(pixels))
    in_flight = time_ms(lambda: executor.dispatch(pixels))
    operations, moved = counted(package, batch)
    arithmetic, memory = operations / limits["bfloat16_tflop_s"] / 1e9, moved / limits["copy_gb_s"] / 1e6
    bound = max(arithmetic, memory)
    return {
        "model": package.name,
        "executor": executor.name,
        "batch": batch,
        "operations_g": round(operations / 1e9, 2),
        "moved_gb": round(moved / 1e9, 3),
        "bound": "memory" if memory > arithmetic else "arithmetic",
        "bound_ms": round(bound, 4),
        "on_device_ms": round(on_device, 4),
        "from_host_ms": round(from_host, 4),
        "from_host_in_flight_ms": round(in_flight, 4),
        "images_s": round(batch / on_device * 1e3),
        "images_s_from_host": round(batch / from_host * 1e3),
        "images_s_from_host_in_flight": round(batch / in_flight * 1e3),
        "share_of_bound": round(bound / on_device, 3),
    }


def exact_search(rows: int, limits: dict[str, float], *, dimension: int = 256, block_rows: int) -> dict[str, object]:
    """Returns the time of exact searches, and how many times the time to read the vectors that is."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((rows, dimension), np.float32)
    copy = DeviceCopy(dimension, Metric.COSINE, block_rows=block_rows, least_rows=1, step_rows=1)
    index = ExactIndex(dimension, Metric.COSINE, capacity=rows, device=copy)
    for first in range(0, rows, block_rows):
        part = prepared(vectors[first : first + block_rows], Metric.COSINE)
        index.add(np.arange(first, first + len(part)), part)
        copy.wait_copied()
    view = index.view
    figures: dict[str, object] = {"rows": rows, "dimension": dimension, "block_rows": block_rows, "stored": "bfloat16"}
    once = rows * dimension / limits["copy_gb_s"] / 1e6
    reading = {"bfloat16": 2 * once, "float32": 4 * once}
    figures |= {f"reading_{name}_ms": round(value, 4) for name, value in reading.items()}
    for count in (1, 8, 64):
        asked = prepared(rng.standard_normal((count, dimension), np.float32), Metric.COSINE)
        blocks, masks = copy._blocks, copy._block_masks(rows, None, kept=True)
        device = time_ms(partial(copy._asked, blocks, masks, jax.device_put(asked.astype(jnp.bfloat16)), 64))
        whole = time_ms(partial(view.nearest, asked, 10), count=10)
        truth = view._nearest_here(asked, 10, slice(None), None)
        found = view.nearest(asked, 10)
        recall = np.mean([len(set(one.rows) & set(other.rows)) / 10 for one, other in zip(found, truth, strict=True)])
        figures[f"{count}_queries"] = {
            "device_ms": round(device, 4),
            "whole_ms": round(whole, 4),
            "device_times_reading_bfloat16": round(device / reading["bfloat16"], 2),
            "device_times_reading_float32": round(device / reading["float32"], 2),
            "recall_at_10": float(recall),
        }
    return figures


def main() -> None:
    """Measures, prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "accelerator.json")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--block-rows", type=int, nargs="+", default=[1 << 18, 1 << 20])
    args = parser.parse_args()
    limits = ceilings(large=jax.default_backend() != "cpu")
    packages = {one.name: one for one in shipped_packages()}
    result = {
        "environment": environment() | {"device": jax.devices()[0].device_kind},
        "what": "A network and exact search on an accelerator, beside the time that its memory or arithmetic needs",
        "ceilings": limits,
        "compute": [compute(packages["base"], args.batch, limits, args.out.parent)],
        "search": [exact_search(args.rows, limits, block_rows=size) for size in args.block_rows],
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
