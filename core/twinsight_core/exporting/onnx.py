"""A network as ONNX: input `images`, output `answers`, weights inside, nothing but standard operators."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import numpy as np

from twinsight_core.errors import StartupError
from twinsight_core.exporting.portable import portable_network
from twinsight_core.images import Preprocessing
from twinsight_core.models.registry import Network

INPUT, OUTPUT = "images", "answers"
OPSET = 18
"""Read by ONNX Runtime since 1.14 of 2023; nothing newer is needed."""
INSTALL_ONNX = "pip install 'twinsight[onnx]'"


@dataclass(frozen=True)
class _Input:
    """Shape and type of the input; a word in the shape is a size left open."""

    shape: tuple[int | str, ...]
    dtype: np.dtype[np.uint8]


class _Graph(Protocol):
    value_info: list[object]


class _Model(Protocol):
    graph: _Graph

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


class _Convert(Protocol):
    """jax2onnx's `to_onnx`, as far as it is used here."""

    def __call__(
        self,
        network: Network,
        *,
        inputs: Sequence[_Input],
        model_name: str,
        opset: int,
        input_names: Sequence[str],
        output_names: Sequence[str],
    ) -> _Model: ...


def to_onnx(network: Network, preprocessing: Preprocessing, *, batch: int | None) -> bytes:
    """Returns the file's content.

    Args:
        network: in evaluation mode.
        preprocessing: shape of a picture.
        batch: the batch size; None for any.

    Raises:
        StartupError: the extra `onnx` is not installed, or the network uses what ONNX has no counterpart for.
    """
    convert: _Convert = _extra("jax2onnx").to_onnx
    size = (preprocessing.height_px, preprocessing.width_px, 3)
    shape = ("batch" if batch is None else batch, *size)
    try:
        with warnings.catch_warnings():
            # jax2onnx 0.17 reads variables in a way that Flax has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            model = convert(
                portable_network(network),
                inputs=[_Input(shape, np.dtype(np.uint8))],
                model_name="twinsight",
                opset=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
    except (NotImplementedError, TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0][:200]
        raise StartupError(f"The network can't be exported to ONNX ({said}).", reason="EXPORT_UNSUPPORTED") from error
    # The converter leaves shapes of the layout before its transpositions there; runtimes infer their own.
    del model.graph.value_info[:]
    return model.SerializeToString()


def run_onnx(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what ONNX Runtime computes with a file on the CPU: pictures to answers.

    Raises:
        StartupError: the extra `onnx` is not installed, or ONNX Runtime refuses the file.
    """
    runtime = _extra("onnxruntime")
    # Its errors have no common base but Exception.
    raised = _extra("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    errors: tuple[type[Exception], ...] = tuple(getattr(raised, name) for name in names)

    def refused(error: Exception) -> StartupError:
        said = str(error).partition("\n")[0][:200]
        return StartupError(f"ONNX Runtime refuses the exported network ({said}).", reason="EXPORT_UNSUPPORTED")

    try:
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except errors as error:
        raise refused(error) from error

    def run(images: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(session.run([OUTPUT], {INPUT: images})[0])
        except errors as error:
            raise refused(error) from error

    return run


def _extra(name: str) -> ModuleType:
    """Returns a module of the extra `onnx`; by name, since neither it nor its types need be there."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise StartupError(
            f"ONNX files need the module `{error.name}`, which is not installed. Install it with: {INSTALL_ONNX}",
            reason="EXTRA_MISSING",
        ) from error
