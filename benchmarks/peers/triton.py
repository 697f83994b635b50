"""Triton Inference Server as nvidia-pytriton starts it, with a Python callable behind its dynamic batching.

pytriton's way to the callable is Triton's Python backend, which hands requests on to the process that bound it.
"""

from __future__ import annotations

import importlib
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks.peers.jpeg_network import JpegNetwork
from benchmarks.peers.orders import Settings

MODEL, INPUT, OUTPUT = "base", "jpeg", "vector"


@contextmanager
def serve(settings: Settings) -> Iterator[Settings]:
    """Runs the server; settings: folder, onnx, instances, network_threads, spin, batch, wait_us."""
    config, triton = importlib.import_module("pytriton.model_config"), importlib.import_module("pytriton.triton")
    batching = config.DynamicBatcher(max_queue_delay_microseconds=int(settings["wait_us"]))
    grpc, http = _free_port(), _free_port()
    options = triton.TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=grpc,
        http_address="127.0.0.1",
        http_port=http,
        allow_metrics=False,
        log_verbose=0,
    )
    # Triton wants to make the folder itself, and is started more than once.
    workspace = Path(tempfile.mkdtemp(dir=str(settings["folder"]))) / "workspace"
    with triton.Triton(config=options, workspace=workspace) as server:
        server.bind(
            model_name=MODEL,
            infer_func=[_callable(settings) for _ in range(int(settings["instances"]))],
            inputs=[config.Tensor(name=INPUT, dtype=bytes, shape=(1,))],
            outputs=[config.Tensor(name=OUTPUT, dtype=np.float32, shape=(-1,))],
            config=config.ModelConfig(max_batch_size=int(settings["batch"]), batcher=batching),
        )
        server.run()
        yield {"grpc": f"127.0.0.1:{grpc}"}


def subject(settings: Settings) -> _Infer:
    """Returns a client over gRPC, the faster protocol; settings: grpc (the address), jpeg."""
    client = importlib.import_module("tritonclient.grpc")
    return _Infer(client, str(settings["grpc"]), Path(str(settings["jpeg"])).read_bytes())


class _Infer:
    """Inference of one JPEG by Triton's own client."""

    def __init__(self, client: ModuleType, address: str, encoded: bytes) -> None:
        self._client = client
        self._server = client.InferenceServerClient(address)
        self._encoded = np.array([[encoded]], np.object_)
        self._outputs = [client.InferRequestedOutput(OUTPUT)]

    def call(self, number: int) -> np.ndarray:
        """Returns [1, components] float32."""
        del number
        sent = self._client.InferInput(INPUT, [1, 1], "BYTES")
        sent.set_data_from_numpy(self._encoded)
        return np.asarray(self._server.infer(MODEL, [sent], outputs=self._outputs).as_numpy(OUTPUT))

    def values(self, number: int) -> list[float]:
        """Returns the vector."""
        return [float(one) for one in self.call(number)[0]]

    def close(self) -> None:
        """Ends the connection."""
        self._server.close()


def _callable(settings: Settings) -> Callable[..., object]:
    """Returns one instance of what is served."""
    network = JpegNetwork(str(settings["onnx"]), threads=int(settings["network_threads"]), spin=bool(settings["spin"]))

    def infer(jpeg: np.ndarray) -> dict[str, np.ndarray]:
        return {OUTPUT: network.vectors([line[0] for line in jpeg])}

    made: Callable[..., object] = importlib.import_module("pytriton.decorators").batch(infer)
    return made


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
