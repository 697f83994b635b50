"""JPEGs to vectors by Pillow and ONNX Runtime: what one writes to serve the network elsewhere.

It runs in the peers' environments.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
from PIL import Image


class JpegNetwork:
    """The exported network behind a decoder.

    Args:
        onnx: path of the file.
        threads: that the network computes with, and that decode.
        spin: whether ONNX Runtime's threads wait actively for more work.
    """

    def __init__(self, onnx: str, *, threads: int, spin: bool) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
        self._session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self._decoders = ThreadPoolExecutor(threads) if threads > 1 else None
        self._side_px = int(self._session.get_inputs()[0].shape[1])

    def vectors(self, encoded: Sequence[bytes]) -> np.ndarray:
        """Returns [batch, components] float32, of length 1."""
        if self._decoders is None or len(encoded) == 1:
            pictures = [self._decode(one) for one in encoded]
        else:
            pictures = list(self._decoders.map(self._decode, encoded))
        return np.asarray(self._session.run(None, {"images": np.stack(pictures)})[0])

    def _decode(self, encoded: bytes) -> np.ndarray:
        """Returns [height, width, 3] uint8, RGB, 0..255, as twinsight decodes a JPEG without EXIF orientation."""
        size = (self._side_px, self._side_px)
        with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as picture:
            picture.draft("RGB", size)
            resized = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
        return np.asarray(resized)
