"""A network as ONNX: input `images`, output `answers`, weights inside, nothing but standard operators."""

from __future__ import annotations

import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from twinsight_core.errors import StartupError
from twinsight_core.exporting import INPUT, OUTPUT
from twinsight_core.exporting.description import PREFIX, in_words
from twinsight_core.exporting.portable import portable_network
from twinsight_core.extras import how_to_install
from twinsight_core.images import Preprocessing
from twinsight_core.models.registry import Network

OPSET = 18
"""Read by ONNX Runtime since 1.14 of 2023; nothing newer is needed."""


@dataclass(frozen=True)
class _Input:
    """Shape and type of the input; a word in the shape is an open size."""

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
        StartupError: the extra `onnx` is not installed, the network uses an operation that ONNX lacks, or there is no
            room for a temporary file.
    """
    convert: _Convert = _extra("jax2onnx").to_onnx
    size = (preprocessing.height_px, preprocessing.width_px, 3)
    shape = ("batch" if batch is None else batch, *size)
    try:
        with _quiet():
            model = convert(
                portable_network(network),
                inputs=[_Input(shape, np.dtype(np.uint8))],
                model_name="twinsight",
                opset=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
    except Exception as error:
        # What it can't express makes the converter fail in many ways, and where it does not know this JAX, in any.
        said = str(error).partition("\n")[0][:200]
        raise StartupError(f"The network can't be exported to ONNX ({said}).", reason="EXPORT_UNSUPPORTED") from error
    # The converter leaves shapes from before its transpositions; runtimes infer their own.
    del model.graph.value_info[:]
    return _tidied(model.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences warnings of jax2onnx 0.17 about its own internals, which users can't act on."""
    # About shapes without a type in what is deleted from the file anyway.
    log = logging.getLogger("onnx_ir.serde")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # It reads variables in a way that Flax deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.setLevel(level)


def _tidied(content: bytes) -> bytes:
    """Returns the same network with fewer operations: no transposition between layers, no addition after a convolution.

    The converter puts a convolution, whose channels come first in ONNX, between two transpositions. ONNX Runtime
    removes them when it loads a file; OpenVINO does not, and spent half of its time on them (2.1 ms against 0.9 ms for
    MobileNetV1 0.75 at 160 px). Here ONNX Runtime's own passes remove them, those that keep to ONNX's operators.
    """
    runtime, onnx = _extra("onnxruntime"), _extra("onnx")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tidied.onnx"
            options.optimized_model_filepath = str(path)
            try:
                runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            except _runtime_errors() as error:
                raise _refused(error) from error
            tidied = onnx.load_model(path)
    except OSError as error:
        said = error.strerror or error
        raise StartupError(
            f"The network can't be exported to ONNX: can't write a temporary file ({said}).", reason="EXPORT_UNWRITABLE"
        ) from error
    used = {node.domain for node in tidied.graph.node}
    for entry in [entry for entry in tidied.opset_import if entry.domain not in used]:
        # ONNX Runtime lists all operator sets that it knows, and other runtimes would require them.
        tidied.opset_import.remove(entry)
    written: bytes = tidied.SerializeToString()
    return written


def described_onnx(content: bytes, described: Mapping[str, object]) -> bytes:
    """Returns the same network with its description.

    The values are in `metadata_props`, by name with the prefix `twinsight.`; the input and the output are also
    described in their `doc_string`.

    Args:
        content: of a file.
        described: see `description.describe`.

    Raises:
        StartupError: the extra `onnx` is not installed.
    """
    model = _extra("onnx").load_model_from_string(content)
    words = in_words(described)
    for name, value in words.items():
        model.metadata_props.add(key=f"{PREFIX}{name}", value=value)
    model.doc_string = f"{words['name']} ({words['digest']}): {words['task']}. {words['description']}".strip()
    model.graph.input[0].doc_string = words["preprocessing"]
    model.graph.output[0].doc_string = words["answers"]
    written: bytes = model.SerializeToString()
    return written


def run_onnx(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that runs a file with ONNX Runtime on the CPU: pictures to outputs.

    Raises:
        StartupError: the extra `onnx` is not installed, or ONNX Runtime rejects the file.
    """
    runtime = _extra("onnxruntime")
    try:
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        raise _refused(error) from error

    def run(images: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(session.run([OUTPUT], {INPUT: images})[0])
        except _runtime_errors() as error:
            raise _refused(error) from error

    return run


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Returns the exceptions of ONNX Runtime; they have no common base but Exception."""
    raised = _extra("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return tuple(getattr(raised, name) for name in names)


def _refused(error: Exception) -> StartupError:
    said = str(error).partition("\n")[0][:200]
    return StartupError(f"ONNX Runtime rejects the exported network ({said}).", reason="EXPORT_UNSUPPORTED")


def _extra(name: str) -> ModuleType:
    """Returns a module of the extra `onnx`; by name, since neither it nor its types need be installed."""
    # From 1.29 on ONNX Runtime reports every session to its maker, unless this is set when it is loaded.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise StartupError(
            f"ONNX files need the module `{error.name}`, which is not installed. {how_to_install('onnx')}",
            reason="EXTRA_MISSING",
        ) from error
    except Exception as error:  # a system library is missing, say, or JAX is of a version that the module does not know
        said = str(error).strip().rpartition("\n")[2][:200]
        raise StartupError(f"The module `{name}` can't be loaded ({said}).", reason="EXTRA_UNUSABLE") from error
