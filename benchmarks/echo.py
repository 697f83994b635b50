"""A gRPC server that does nothing: what any call through grpcio costs on this machine at this moment.

`python -m benchmarks.echo [THREADS]` serves on a free port, prints it and waits.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

THREADS = 4
ANSWER = bytes(1024)  # as large as a vector of 256 components


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        del handler_call_details
        return grpc.unary_unary_rpc_method_handler(lambda request, context: ANSWER)  # noqa: ARG005


@contextmanager
def serving(threads: int = THREADS) -> Iterator[str]:
    """Runs the server as a process of its own; gives its address."""
    command = [sys.executable, "-m", "benchmarks.echo", f"{threads}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"127.0.0.1:{process.stdout.readline().strip() if process.stdout else ''}"
        finally:
            process.terminate()


@contextmanager
def calling(address: str) -> Iterator[Callable[[bytes], bytes]]:
    """Gives a call to the server, over a connection of its own."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/benchmarks.Echo/Echo")
        yield lambda message: bytes(call(message, timeout=10))


@contextmanager
def echo() -> Iterator[Callable[[bytes], bytes]]:
    """Runs the server, and gives a call to it."""
    with serving() as address, calling(address) as call:
        yield call


def main() -> None:
    """Serves until it is ended."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else THREADS
    server = grpc.server(ThreadPoolExecutor(threads), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
