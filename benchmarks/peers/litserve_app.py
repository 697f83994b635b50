"""What LitServe serves: `python -m benchmarks.peers.litserve_app SETTINGS`, in LitServe's environment.

Its worker processes import this module to find the class. LitServe and FastAPI are of that environment alone.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, cast

import litserve  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]
import numpy as np
from fastapi import Body, Response  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

from benchmarks.peers.jpeg_network import JpegNetwork
from benchmarks.peers.orders import Settings


# The base class has no types in the project's environment.
class JpegApi(litserve.LitAPI):  # type: ignore[misc]
    """JPEGs in the body, float32 components out."""

    def __init__(self, settings: Settings) -> None:
        """Takes what `litserve_server.serve` takes."""
        super().__init__(max_batch_size=int(settings["batch"]), batch_timeout=float(settings["wait_s"]))
        self._settings = settings

    def setup(self, device: str) -> None:
        """Loads the network in a worker process."""
        del device
        known = self._settings
        self._network = JpegNetwork(str(known["onnx"]), threads=int(known["network_threads"]), spin=bool(known["spin"]))

    def decode_request(self, request: bytes) -> bytes:
        """Returns the body as it is: pictures are decoded together."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Returns the JPEGs as they are: LitServe would make an array of them."""
        return inputs

    def predict(self, inputs: bytes | list[bytes]) -> np.ndarray:
        """Returns a vector, or one for each JPEG of a batch."""
        if isinstance(inputs, bytes):
            return np.asarray(self._network.vectors([inputs])[0])
        return np.asarray(self._network.vectors(inputs))

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """Returns the vectors one by one."""
        return list(output)

    def encode_response(self, output: np.ndarray) -> object:
        """Returns the bytes of a vector."""
        return Response(output.tobytes(), media_type="application/octet-stream")


# LitServe reads the signature: raw bytes of the body, which annotations kept as strings can't say.
JpegApi.decode_request.__annotations__["request"] = Annotated[bytes, Body(media_type="image/jpeg")]
JpegApi.encode_response.__annotations__["return"] = Response


def main() -> None:
    """Serves until it is ended."""
    settings = cast("Settings", json.loads(sys.argv[1]))
    server = litserve.LitServer(
        JpegApi(settings), accelerator="cpu", workers_per_device=int(settings["instances"]), fast_queue=True, timeout=60
    )
    server.run(
        host="127.0.0.1",
        port=int(settings["port"]),
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
        timeout_keep_alive=3600,  # seconds; clients wait for their turn with open connections
    )


if __name__ == "__main__":
    main()
