"""A gRPC server that does nothing: what any call through grpcio costs on this machine at this moment.

`python -m benchmarks.echo` serves on a free port, prints it and waits.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

ANSWER = bytes(1024)  # as large as a vector of 256 components


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        del handler_call_details
        return grpc.unary_unary_rpc_method_handler(lambda request, context: ANSWER)  # noqa: ARG005


@contextmanager
def echo() -> Iterator[Callable[[bytes], bytes]]:
    """Runs the server as a process of its own; gives a call to it."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.echo"], stdout=subprocess.PIPE, text=True) as process:
        try:
            port = process.stdout.readline().strip() if process.stdout else ""
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
                call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/benchmarks.Echo/Echo")
                yield lambda message: bytes(call(message, timeout=10))
        finally:
            process.terminate()


def main() -> None:
    """Serves until it is ended."""
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
