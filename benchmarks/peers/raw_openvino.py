"""OpenVINO alone, in this process, on decoded pictures: the limit of the CPU."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks.peers.orders import Settings


def subject(settings: Settings) -> _Compiled:
    """Returns the network compiled for one batch size; settings: onnx, pixels, batch, precision ("bf16" or "f32")."""
    pixels = np.load(str(settings["pixels"]))
    images = np.repeat(pixels[None], int(settings["batch"]), axis=0)
    return _Compiled(Path(str(settings["onnx"])).read_bytes(), images, str(settings["precision"]))


class _Compiled:
    """A compiled network and the batch that it is given again and again."""

    def __init__(self, onnx: bytes, images: np.ndarray, precision: str) -> None:
        core = _openvino().Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise RuntimeError("This CPU has no bfloat16.")
        model = core.read_model(onnx)
        model.reshape({"images": list(images.shape)})
        options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        self._request = core.compile_model(model, "CPU", options).create_infer_request()
        self._images = images

    def call(self, number: int) -> np.ndarray:
        """Computes the batch."""
        del number
        answers = self._request.infer(self._images, share_inputs=True, share_outputs=True)
        return np.array(answers[0])

    def values(self, number: int) -> list[float]:
        """Returns the first picture's vector."""
        return [float(one) for one in self.call(number)[0]]

    def close(self) -> None:
        """Nothing to end."""


def _openvino() -> ModuleType:
    # With this module OpenVINO tells its maker of the import; None stands for "there is none".
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    return importlib.import_module("openvino")
