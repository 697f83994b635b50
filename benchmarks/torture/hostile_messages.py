"""Hostile messages against a server: documented codes only, no exception's text, nothing outside the data folder."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path

import grpc
import numpy as np

from benchmarks.serving import server
from benchmarks.torture.messages import hostile_call
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from twinsight_client import Client, NewItem

DOCUMENTED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
}
_OF_GRPC = "Exception deserializing request!"
"""What gRPC itself says of bytes that are no message of the type: INTERNAL, before anything of the server runs."""

_TELLS = re.compile(r"Traceback|File \"|Error\(|Exception(?! deserializing)|object at 0x|site-packages|\.py\b")
_TIMEOUT_S = 30.0


def try_server(address: str, data_dir: Path, first: int, count: int) -> Outcome:
    """Sends the calls of `count` seeds one after another, and says what broke.

    Args:
        address: HOST:PORT of a server; its collections may be gone afterwards.
        data_dir: its data folder, alone in a folder.
        first: the first seed.
        count: how many.
    """
    failures: list[str] = []
    codes: Counter[str] = Counter()
    beside = set(data_dir.parent.iterdir())
    with grpc.insecure_channel(address) as channel:
        _prepare(address)
        for seed in range(first, first + count):
            method, request = hostile_call(seed)
            path = f"/{method.containing_service.full_name}/{method.name}"
            code, text = _send(channel, path, request, streams=method.client_streaming)
            if method.name == "DeleteCollection" and code == "OK":
                _prepare(address)
            codes[code] += 1
            if not (code in DOCUMENTED or (code == "INTERNAL" and text == _OF_GRPC)) or _TELLS.search(text):
                failures.append(f"seed {seed}: {path} {code} {text[:200]!r}")
    failures += [f"{one} is new, outside of the data folder" for one in set(data_dir.parent.iterdir()) - beside]
    collections = data_dir / "collections"
    strange = [one.name for one in collections.iterdir() if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", one.name)]
    failures += [f"{name!r} is in the data folder" for name in strange]
    figures: dict[str, Figure] = dict(codes)
    return Outcome(cases=count, failures=failures, figures=figures)


def _prepare(address: str) -> None:
    """Makes the collection that most calls name."""
    with Client(address) as client:
        if "small" in {one.id for one in client.list_collections()}:
            return
        client.create_collection("small", dimension=3)
        client.upsert("small", [NewItem("a", np.ones(3, np.float32), {"year": 2024})]).values()


def _send(channel: grpc.Channel, path: str, request: bytes, *, streams: bool) -> tuple[str, str]:
    """Sends bytes as a request; returns the code's name and the text, those of single items among it."""
    stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
    unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    try:
        if streams:
            answers = list(stream(iter((request,)), timeout=_TIMEOUT_S))
        else:
            answers = [unary(request, timeout=_TIMEOUT_S)]
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", b"".join(answers).decode("latin-1")


def _run(scale: Scale) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        flags = ("--models", "base", "--batch-size", "4")
        with server(data_dir, *flags) as served:
            outcome = try_server(served.address, data_dir, scale.seed * 1_000_000, scale.of(100_000))
            with Client(served.address) as client:
                client.list_collections()  # it lives
    return outcome


PROMISE = Promise(
    number=14,
    name="hostile-messages",
    bar="100,000 fuzzed messages: documented codes only, no exception text, nothing outside the data folder",
    minutes=60.0,
    run=_run,
)
