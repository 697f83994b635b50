"""ONNX Runtime alone, in this process, on decoded pictures, float32 and its default threads."""

from __future__ import annotations

import numpy as np
import onnxruntime

from benchmarks.peers.orders import Settings


def subject(settings: Settings) -> _Session:
    """Returns the network with one batch; settings: onnx, pixels, batch."""
    pixels = np.load(str(settings["pixels"]))
    return _Session(str(settings["onnx"]), np.repeat(pixels[None], int(settings["batch"]), axis=0))


class _Session:
    """A session and the batch that it is given again and again."""

    def __init__(self, onnx: str, images: np.ndarray) -> None:
        self._session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self._images = images

    def call(self, number: int) -> np.ndarray:
        """Computes the batch."""
        del number
        return np.asarray(self._session.run(None, {"images": self._images})[0])

    def values(self, number: int) -> list[float]:
        """Returns the first picture's vector."""
        return [float(one) for one in self.call(number)[0]]

    def close(self) -> None:
        """Nothing to end."""
