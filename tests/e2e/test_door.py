"""What callers without a token can't make a server keep: their messages, and its threads."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import jwt
import pytest
from grpc_health.v1 import health_pb2

from e2e.access import ONCE, new_key
from e2e.conftest import Dynamic, config, health_stub
from e2e.errors import reason, status_of
from e2e.tiny import save_embedder
from twinsight_client import Client, PermissionDenied
from twinsight_server.app import Server

EMBED = "/twinsight.v1.InferenceService/Embed"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
STREAMS = 2 + 1
"""Those that one connection may have open: as many as `max_calls` and `max_streams` are together."""

THREADS = STREAMS + 64


SECRET = "a-jwt-secret-of-more-than-thirty-two-bytes"  # noqa: S105 - of these tests alone


def token_of(subject: str) -> str:
    """A JWT that the server has not seen before, where no other test takes the subject."""
    claims = {
        "iss": "i",
        "aud": "a",
        "sub": subject,
        "exp": datetime.now(UTC) + timedelta(hours=1),
        "twinsight_grants": [{"rights": ["read"], "collections": ["*"]}],
    }
    return jwt.encode(claims, SECRET, "HS256")


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


class Guarded:
    """A server that asks for tokens, and one of them."""

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        save_embedder(folder / "models" / "tiny", None)
        self.key = new_key(folder / "keys.json", "owner", "read,write,admin")
        self.audit_file = folder / "audit.jsonl"
        (folder / "secret").write_text(SECRET)
        self.server = Server(
            config(
                folder / "data",
                cache_dir,
                models="tiny",
                models_dir=folder / "models",
                default_model="tiny",
                executor="xla",
                batch_size=1,
                max_calls=2,
                max_streams=1,
                max_message_bytes=1 << 20,
                max_image_bytes=1 << 20,
                api_keys=folder / "keys.json",
                jwt_secret=folder / "secret",
                jwt_issuer="i",
                jwt_audience="a",
                audit_log=self.audit_file,
            )
        )
        self.server.start()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("door"), cache_dir)
    yield made
    made.server.stop()


def raw(channel: grpc.Channel, path: str) -> Dynamic:
    """A unary method, which takes bytes."""
    return channel.unary_unary(path)


@contextmanager
def unsent(address: str, path: str, count: int, metadata: tuple[tuple[str, str], ...] = ()) -> Iterator[list[Dynamic]]:
    """Calls whose message never comes, over as many connections as it takes."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait()
        yield from ()

    with ExitStack() as opened:
        opened.callback(over.set)
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            opened.enter_context(grpc.insecure_channel(address, options=options))
            for _ in range(math.ceil(count / STREAMS))
        ]
        methods: list[Dynamic] = [channel.stream_stream(path) for channel in channels]
        yield [methods[number // STREAMS](nothing(), metadata=metadata, timeout=60) for number in range(count)]


@pytest.mark.parametrize("token", ["", "tws_wrong", "e30.e30.x"])
def test_who_is_not_known_is_refused_before_the_message_has_come(guarded: Guarded, token: str) -> None:
    metadata = bearer(token) if token else ()
    with unsent(guarded.server.address, EMBED, 1, metadata) as (call,), pytest.raises(grpc.RpcError) as refused:
        next(call)
    assert reason(status_of(refused.value)) == "CREDENTIALS_INVALID"
    noted = [json.loads(line) for line in guarded.audit_file.read_text().splitlines()]
    refusals = [one for one in noted if one["code"] == "UNAUTHENTICATED"]
    assert {(one["method"], one["collection"], one["items"]) for one in refusals} == {("Embed", None, 0)}
    assert all(one["unproven"] for one in refusals)


def test_a_token_that_comes_for_the_first_time_is_answered_as_it_is_later(guarded: Guarded) -> None:
    with Client(guarded.server.address, token=token_of("first"), retry=ONCE, timeout_s=30) as client:
        for _ in range(2):
            assert client.list_collections() == []
            with pytest.raises(
                PermissionDenied, match=r"^CreateCollection needs the right `admin` on collection `a`\."
            ):
                client.create_collection("a", dimension=2)


def test_bytes_that_are_no_message_are_told_to_whom_comes_for_the_first_time(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        raw(channel, EMBED)(b"\xff\xff\xff", metadata=bearer(token_of("garbled")), timeout=30)
    status = status_of(refused.value)
    assert (status.code, reason(status)) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "MESSAGE_MALFORMED")
    assert status.message == "The request body is not a valid message for Embed."


def test_a_call_that_ends_without_its_message_is_told_so(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.server.address) as channel:
        method: Dynamic = channel.stream_stream(EMBED)
        with pytest.raises(grpc.RpcError) as refused:
            next(method(iter(()), metadata=bearer(token_of("silent")), timeout=30))
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refused.value.details() == "Embed needs one message, and none was sent."


@pytest.mark.parametrize("path", [CHECK, WATCH])
def test_questions_after_health_that_are_never_asked_take_no_threads_from_others(guarded: Guarded, path: str) -> None:
    with unsent(guarded.server.address, path, THREADS + 8) as calls:
        with pytest.raises(grpc.RpcError) as ended:
            next(calls[0])  # the first gave way, so the others have come, too
        assert ended.value.code() is grpc.StatusCode.CANCELLED
        with grpc.insecure_channel(guarded.server.address) as channel:
            check = health_stub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            assert check.status == health_pb2.HealthCheckResponse.SERVING
        with Client(guarded.server.address, token=guarded.key, retry=ONCE, timeout_s=30) as client:
            assert client.list_collections() == []


def test_questions_after_health_that_come_together_are_all_answered(guarded: Guarded) -> None:
    question = health_pb2.HealthCheckRequest().SerializeToString()
    alone = [("grpc.use_local_subchannel_pool", 1)]
    with ExitStack() as opened:
        channels = [opened.enter_context(grpc.insecure_channel(guarded.server.address, alone)) for _ in range(48)]
        asked = [raw(channel, CHECK).future(question, timeout=60) for channel in channels]
        answers = [health_pb2.HealthCheckResponse.FromString(one.result()) for one in asked]
    assert {one.status for one in answers} == {health_pb2.HealthCheckResponse.SERVING}


def test_health_is_watched_without_a_token(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.server.address) as channel:
        watch = health_stub(channel).Watch(
            health_pb2.HealthCheckRequest(service="twinsight.v1.ModelService"), timeout=30
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


def test_bytes_that_are_no_question_after_health_are_told(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        raw(channel, CHECK)(b"\xff\xff\xff", timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_compressed_message_counts_by_what_it_holds(guarded: Guarded) -> None:
    with grpc.insecure_channel(guarded.server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        raw(channel, EMBED)(
            bytes(8 << 20),
            metadata=bearer(guarded.key),
            compression=grpc.Compression.Gzip,
            timeout=30,
        )
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
