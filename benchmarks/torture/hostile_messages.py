"""Promise 14: whatever a message holds, the answer has a documented code, and nothing lies outside the data folder.

Calls made from the descriptors of all services (`messages`) go to a server one after another. The codes of calls and of
single items must be among those that the comments of `proto/twinsight/v1` name, and their texts must tell nothing of an
exception. Names that look like paths must leave nothing around the data folder, nor strange files in it. In the end the
server must still answer rightly.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from benchmarks.serving import server
from benchmarks.torture.hostile_traffic import grpc_code
from benchmarks.torture.messages import HostileCall, hostile_call
from benchmarks.torture.promise import Figure, Outcome, Promise, Scale
from twinsight_client import Client, NewItem

MESSAGES = 100_000
_PROTO = Path(__file__).parents[2] / "proto/twinsight/v1"
_CODE = re.compile("|".join(code.name for code in grpc.StatusCode if code is not grpc.StatusCode.UNKNOWN))
_NOT_HERE = {"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED", "PERMISSION_DENIED", "CANCELLED"}
"""Documented, and wrong on a server that is sound, open to all and not about to end."""

_TELLS = re.compile(r"Traceback|File \"|Error\(|Exception|object at 0x|site-packages|\.py\b")
_NAMES = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}(/(store\.db(-wal|-shm)?|graph-[\w.-]+)?)?")
_TIMEOUT_S = 30.0


def documented() -> set[str]:
    """Returns the codes that the comments of the contract name, and OK."""
    comments = re.findall(r"//.*", "\n".join(file.read_text("utf-8") for file in sorted(_PROTO.glob("*.proto"))))
    return {"OK", *(code for line in comments for code in _CODE.findall(line))}


_DOCUMENTED = documented() - _NOT_HERE


def flaw(code: str, text: str, items: Sequence[status_pb2.Status] = ()) -> str:
    """Says what is wrong with an answer; empty: nothing is.

    Args:
        code: of the call.
        text: its message.
        items: what became of its items, those that failed.
    """
    if code not in _DOCUMENTED or _TELLS.search(text):
        return f"{code} {text[:200]!r}"
    for one in items:
        if (name := grpc_code(one.code)) not in _DOCUMENTED or _TELLS.search(str(one)):
            return f"an item: {name} {one.message[:200]!r}"
    return ""


def try_server(address: str, data_dir: Path, first: int, count: int) -> Outcome:
    """Sends the calls of `count` seeds one after another, and says what broke.

    Args:
        address: HOST:PORT of a server; its collections may be gone afterwards.
        data_dir: its data folder, in a folder of a folder that nobody else writes to.
        first: the first seed.
        count: how many.
    """
    failures: list[str] = []
    codes: Counter[str] = Counter()
    before = set(_around(data_dir))
    with grpc.insecure_channel(address) as channel:
        _prepare(address)
        for seed in range(first, first + count):
            call = hostile_call(seed)
            code, text, items = _sent(channel, call)
            if call.method.name == "DeleteCollection" and code == "OK":
                _prepare(address)
            codes[code] += 1
            codes.update(f"item {grpc_code(one.code)}" for one in items)
            if wrong := flaw(code, text, items):
                failures.append(f"seed {seed}: {call.method.full_name}: {wrong}")
    failures += [f"{one} is new, outside of the data folder" for one in sorted(set(_around(data_dir)) - before)]
    failures += [f"{name!r} is in the data folder" for name in _strange(data_dir / "collections")]
    if not _is_well(address):
        failures.append("afterwards the server does not find what it is given")
    figures: dict[str, Figure] = dict(codes.most_common())
    return Outcome(cases=count, failures=failures, figures=figures)


def _sent(channel: grpc.Channel, call: HostileCall) -> tuple[str, str, list[status_pb2.Status]]:
    """Sends a call; returns the code's name, the text, and the errors of single items."""
    method, request, metadata = call
    path = f"/{method.containing_service.full_name}/{method.name}"
    stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(path)
    unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
    try:
        if method.client_streaming:
            answers = list(stream(iter((request,)), timeout=_TIMEOUT_S, metadata=metadata))
        else:
            answers = [unary(request, timeout=_TIMEOUT_S, metadata=metadata)]
    except grpc.RpcError as error:
        return error.code().name, error.details() or "", []
    kind = GetMessageClass(method.output_type)
    try:
        return "OK", "", [status for one in answers for status in _statuses(kind.FromString(one))]
    except DecodeError:
        return "UNKNOWN", "the answer is no message of the method", []


def _statuses(message: Message) -> Iterator[status_pb2.Status]:
    """Yields all google.rpc.Status within a message."""
    if isinstance(message, status_pb2.Status):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for one in value if field.is_repeated else (value,):
            yield from _statuses(one)


def _around(data_dir: Path) -> Iterator[str]:
    """Yields what lies around the data folder, and where names that look like paths would lead."""
    for folder, folders, files in os.walk(data_dir.parents[1]):
        if Path(folder) == data_dir.parent:
            folders.remove(data_dir.name)
        yield from (str(Path(folder) / name) for name in (*folders, *files))
    for place in (Path("/"), Path("/etc"), Path.cwd()):
        yield from map(str, place.iterdir())


def _strange(collections: Path) -> Iterator[str]:
    for one in collections.rglob("*"):
        name = str(one.relative_to(collections))
        if not _NAMES.fullmatch(name):
            yield name


def _prepare(address: str) -> None:
    """Makes the collection that most calls name."""
    with Client(address) as client:
        if "small" in {one.id for one in client.list_collections()}:
            return
        client.create_collection("small", dimension=3)
        client.upsert("small", [NewItem("a", np.ones(3, np.float32), {"year": 2024})]).values()


def _is_well(address: str) -> bool:
    vector = np.array([0.1, -7.0, 3.0], np.float32)
    with Client(address) as client:
        client.create_collection("sound", dimension=3)
        client.upsert("sound", [NewItem("there", vector)]).values()
        ((found,),) = client.search("sound", [vector], top_k=1).values()
        client.delete_collection("sound")
    return found.id == "there"


def run(scale: Scale) -> Outcome:
    """Sends hostile calls to a server of its own."""
    with tempfile.TemporaryDirectory(prefix="twinsight-torture-") as folder:
        data_dir = Path(folder) / "srv" / "twinsight" / "data"
        data_dir.parent.mkdir(parents=True)
        with server(data_dir, "--models", "base", "--batch-size", "4") as served:
            return try_server(served.address, data_dir, scale.seed * 1_000_000, scale.of(MESSAGES))


PROMISE = Promise(
    number=14,
    name="hostile-messages",
    bar="100,000 fuzzed messages: documented codes only, no exception text, nothing outside the data folder",
    minutes=25.0,
    run=run,
)
