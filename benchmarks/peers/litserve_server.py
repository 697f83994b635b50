"""LitServe with its batching, and HTTP calls to it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from benchmarks.peers.orders import Settings

STARTED_WITHIN_S = 120.0


@contextmanager
def serve(settings: Settings) -> Iterator[Settings]:
    """Runs the server as a process of its own; settings: onnx, instances, network_threads, spin, batch, wait_s."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.peers.litserve_app", json.dumps({**settings, "port": port})]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            _wait(process, port)
            yield {"port": port}
        finally:
            process.send_signal(signal.SIGINT)  # at SIGTERM it ends and leaves its workers behind


def subject(settings: Settings) -> _Post:
    """Returns a client; settings: port, jpeg."""
    return _Post(int(settings["port"]), Path(str(settings["jpeg"])).read_bytes())


class _Post:
    """A POST of one JPEG over a connection that stays open."""

    def __init__(self, port: int, encoded: bytes) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._encoded = encoded

    def call(self, number: int) -> np.ndarray:
        """Returns [components] float32."""
        del number
        self._connection.request("POST", "/predict", self._encoded, {"Content-Type": "image/jpeg"})
        response = self._connection.getresponse()
        content = response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"LitServe answers {response.status}: {content[:200]!r}")
        return np.frombuffer(content, np.float32)

    def values(self, number: int) -> list[float]:
        """Returns the vector."""
        return [float(one) for one in self.call(number)]

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Returns when every worker of the server is ready."""
    until = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == http.client.OK:
                return
        time.sleep(0.1)
    raise RuntimeError(f"LitServe does not serve (status {process.poll()}).")
