"""A server that asks for tokens, keys to it, and a call of any method."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
from click.testing import CliRunner
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from e2e.conftest import Dynamic, config
from twinsight.v1 import collection_service_pb2, inference_service_pb2, model_service_pb2
from twinsight_client import (
    Client,
    NewItem,
    RetryPolicy,
    Unauthenticated,
)
from twinsight_server.access.commands import keys as keys_command
from twinsight_server.app import Server

METHODS = [
    method
    for module in (inference_service_pb2, collection_service_pb2, model_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
ONCE = RetryPolicy(attempts=1)


def new_key(file: Path, name: str, rights: str, collections: str = "*", *more: str) -> str:
    flags = ["--file", str(file), "--name", name, "--rights", rights, "--collections", collections, *more]
    made = CliRunner().invoke(keys_command, ["new", *flags])
    assert made.exit_code == 0, made.output
    return made.output.strip()


class Access:
    """A server that asks for tokens, and keys to it."""

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        self.file, self.audit_file = folder / "keys.json", folder / "audit.jsonl"
        self.owner = new_key(self.file, "owner", "read,write,admin")
        self.reader = new_key(self.file, "reader", "read", "photos*")
        self.writer = new_key(self.file, "writer", "write", "photos*")
        self.slow = new_key(self.file, "slow", "read", "photos*", "--calls-per-s", "0.5")
        self.busy = new_key(self.file, "busy", "read,write", "photos*", "--max-calls", "1", "--max-streams", "1")
        self.server = Server(
            config(
                folder / "data",
                cache_dir,
                api_keys=self.file,
                audit_log=self.audit_file,
                max_calls=2,
                max_collections=3,
                max_items_per_collection=5,
                metrics_listen="127.0.0.1:0",
            )
        )
        self.server.start()
        with self.client(self.owner) as client:
            for name in ("photos", "secret"):
                client.create_collection(name, dimension=2)
                client.upsert(name, [NewItem("a", [1.0, 0.0])]).values()

    def client(self, token: str | None) -> Client:
        return Client(self.server.address, token=token, retry=ONCE, timeout_s=30)

    def knows(self, key: str) -> bool:
        """Whether the server has read a key that was made meanwhile."""
        try:
            with self.client(key) as client:
                client.list_models()
        except Unauthenticated:
            return False
        return True

    def audit(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]


@contextmanager
def access_controlled(folder: Path, cache_dir: Path) -> Iterator[Access]:
    """Such a server while it runs."""
    made = Access(folder, cache_dir)
    yield made
    made.server.stop()


def call(channel: grpc.Channel, method: MethodDescriptor, metadata: tuple[tuple[str, str], ...]) -> None:
    """Sends an empty request and waits for the answer."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    request, answer = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
    codecs: Dynamic = {"request_serializer": request.SerializeToString, "response_deserializer": answer.FromString}
    if method.client_streaming:
        list(channel.stream_stream(path, **codecs)(iter([request()]), metadata=metadata, timeout=30))
    else:
        channel.unary_unary(path, **codecs)(request(), metadata=metadata, timeout=30)
