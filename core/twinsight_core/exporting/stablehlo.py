"""A network as StableHLO, in the serialised form of `jax.export`: weights inside, for CPU, CUDA and TPU alike.

`jax.export.deserialize` reads it back; its `mlir_module_serialized` is the portable artefact for other runtimes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.errors import InconclusiveDimensionOperation

from twinsight_core.errors import StartupError
from twinsight_core.images import Preprocessing
from twinsight_core.models.float32 import in_float32
from twinsight_core.models.folding import fold_batch_norm
from twinsight_core.models.registry import Network

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(network: Network, preprocessing: Preprocessing, *, batch: int | None) -> bytes:
    """Returns the file's content.

    Args:
        network: in evaluation mode.
        preprocessing: shape of a picture.
        batch: the batch size; None for any.

    Raises:
        StartupError: the network can't be lowered to it.
    """
    serving = fold_batch_norm(network)
    size = (preprocessing.height_px, preprocessing.width_px, 3)

    @in_float32
    def answers(images: jax.Array) -> jax.Array:
        return serving(images)

    try:
        shape = (*export.symbolic_shape("batch"), *size) if batch is None else (batch, *size)
        exported = export.export(jax.jit(answers), platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.uint8))
        return bytes(exported.serialize())
    except (NotImplementedError, TypeError, ValueError, InconclusiveDimensionOperation) as error:
        said = str(error).partition("\n")[0][:200]
        raise StartupError(
            f"The network can't be exported to StableHLO ({said}).", reason="EXPORT_UNSUPPORTED"
        ) from error


def run_stablehlo(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs a file: pictures to outputs."""
    exported = export.deserialize(bytearray(content))
    called = jax.jit(exported.call)
    return lambda images: np.asarray(called(images))
