"""Who may do what on a real server, and how much."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from e2e.access import METHODS, ONCE, Access, access_controlled, call, new_key
from e2e.conftest import Dynamic, health_stub, until
from e2e.errors import reason, status_of
from e2e.test_process import serving
from twinsight_client import (
    AsyncClient,
    Client,
    ItemId,
    NewItem,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    field,
)
from twinsight_core.errors import StartupError
from twinsight_server.access.commands import keys as keys_command
from twinsight_server.access.methods import RULES
from twinsight_server.config import ServerConfig


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Access]:
    with access_controlled(tmp_path_factory.mktemp("access"), cache_dir) as made:
        yield made


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_no_method_is_answered_without_a_token(access: Access, method: MethodDescriptor) -> None:
    said = set()
    with grpc.insecure_channel(access.server.address) as channel:
        for metadata in ((), (("authorization", "Bearer tws_wrong"),), (("x-api-key", "no"),)):
            with pytest.raises(grpc.RpcError) as refused:
                call(channel, method, metadata)
            status = status_of(refused.value)
            said.add((status.code, status.message, reason(status)))
    assert said == {(16, "This server requires a token, and the call has no valid one.", "CREDENTIALS_INVALID")}


def test_each_method_of_the_contract_has_a_rule() -> None:
    assert sorted(RULES) == sorted(method.name for method in METHODS)


def test_health_needs_no_token_and_reflection_does(access: Access) -> None:
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(access.server.address) as channel:
        health = health_stub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        ask: Dynamic = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        with pytest.raises(grpc.RpcError) as refused:
            list(ask(iter([question]), timeout=30))
        assert status_of(refused.value).code == grpc.StatusCode.UNAUTHENTICATED.value[0]
        token = (("authorization", f"Bearer {access.reader}"),)
        (answer,) = ask(iter([question]), timeout=30, metadata=token)
        assert len(answer.list_services_response.service) == 5


def test_a_key_does_what_it_was_granted_and_nothing_else(access: Access, photos: dict[str, bytes]) -> None:
    with access.client(access.reader) as reader, access.client(access.writer) as writer:
        assert reader.embed([photos["coins"]]).values()
        assert reader.search("photos", [[1.0, 0.0]]).values()[0][0].id == "a"
        writer.upsert("photos", [NewItem("a", [1.0, 0.0])]).values()
        refusals = (
            lambda: reader.upsert("photos", [NewItem("b", [1.0, 0.0])]),
            lambda: reader.create_collection("photos2", dimension=2),
            lambda: reader.delete_collection("photos"),
            lambda: writer.search("photos", [[1.0, 0.0]]),
            lambda: writer.embed([photos["coins"]]),
            writer.list_collections,
            lambda: writer.upsert("secret", [NewItem("b", [1.0, 0.0])]),
            lambda: list(writer.ingest("secret", [NewItem("b", [1.0, 0.0])], ingest_id="x")),
        )
        for refused in refusals:
            with pytest.raises(PermissionDenied) as told:
                refused()
            assert told.value.reason == "RIGHT_MISSING"


def test_what_may_not_be_read_looks_the_same_whether_it_is_there_or_not(access: Access) -> None:
    with access.client(access.reader) as reader:
        assert [one.id for one in reader.list_collections()] == ["photos"]
        told = []
        for name in ("secret", "nothing"):
            with pytest.raises(PermissionDenied) as denied:
                reader.get_collection(name)
            told.append(denied.value.message.replace(name, "NAME"))
        assert told[0] == told[1]
        with pytest.raises(NotFound, match=r"^Collection `photos9` does not exist; available: `photos`\.$"):
            reader.get_collection("photos9")


def test_the_asyncio_client_sends_a_token_that_is_renewed(access: Access) -> None:
    tokens = iter(["tws_old", access.reader])

    async def calls() -> None:
        async with AsyncClient(access.server.address, token=lambda: next(tokens), retry=ONCE) as client:
            with pytest.raises(Unauthenticated):
                await client.list_models()
            assert await client.list_models()

    asyncio.run(calls())


def test_a_revoked_key_is_refused_in_its_open_stream_too(access: Access) -> None:
    key = new_key(access.file, "brief", "write", "photos*")
    revoked = threading.Event()
    until(lambda: is_known(access, key))

    def items() -> Iterator[NewItem]:
        yield NewItem("a", [1.0, 0.0])
        assert revoked.wait(30)
        while True:
            yield NewItem("a", [1.0, 0.0])

    def write_on() -> None:
        with access.client(key) as client:
            for answer in client.ingest("photos", items(), batch_size=1):
                answer.values()
                if not revoked.is_set():
                    done = CliRunner().invoke(keys_command, ["revoke", "--file", str(access.file), "--name", "brief"])
                    assert done.exit_code == 0
                    revoked.set()

    with pytest.raises(Unauthenticated):
        write_on()
    assert revoked.is_set()


def is_known(access: Access, key: str) -> bool:
    """Whether the server has read the file in which a key is."""
    with access.client(key) as client:
        try:
            client.upsert("photos", [NewItem("a", [1.0, 0.0])])
        except Unauthenticated:
            return False
        return True


def test_the_audit_log_tells_who_did_what_and_holds_no_contents(access: Access) -> None:
    before = len(access.audit())
    with access.client(access.writer) as writer, access.client("tws_stranger") as stranger:
        writer.upsert("photos", [NewItem("a-telling-id", [0.25, 0.5], {"name": "alice"})], request_id="one").values()
        with pytest.raises(PermissionDenied):
            writer.upsert("secret", [NewItem("a", [1.0, 0.0])], request_id="two")
        with pytest.raises(Unauthenticated):
            stranger.search("photos", [[1.0, 0.0]], request_id="three")
        list(writer.ingest("photos", [NewItem("a", [1.0, 0.0])], request_id="four"))
        writer.delete_items("photos", ["a-telling-id"])

    def lines() -> dict[tuple[object, object], dict[str, object]]:
        return {(one["request_id"], one["event"]): one for one in access.audit()[before:]}

    until(lambda: ("four", "stream") in lines())
    told = {
        key: (one["caller"], one["method"], one["collection"], one["items"], one["code"], one["reason"])
        for key, one in lines().items()
    }
    assert told["one", "call"] == ("key:writer", "UpsertItems", "photos", 1, "OK", "")
    assert told["two", "call"] == ("key:writer", "UpsertItems", "secret", 1, "PERMISSION_DENIED", "RIGHT_MISSING")
    assert told["three", "call"] == ("", "Search", None, 0, "UNAUTHENTICATED", "CREDENTIALS_INVALID")
    assert told["four", "message"] == ("key:writer", "IngestItems", "photos", 1, "OK", "")
    assert told["four", "stream"] == ("key:writer", "IngestItems", None, 0, "OK", "")
    # A time may have any digits.
    text = json.dumps([{name: value for name, value in one.items() if name != "time"} for one in access.audit()])
    for hidden in ("a-telling-id", "alice", "0.25", access.writer, "tws_"):
        assert hidden not in text


def test_who_may_search_finds_items_and_is_given_no_vector(access: Access) -> None:
    key = new_key(access.file, "finder", "search", "photos*")
    until(lambda: access.knows(key))
    with access.client(key) as finder:
        for query in ([1.0, 0.0], ItemId("a")):
            (matches,) = finder.search("photos", [query], top_k=1).values()
            assert [(one.id, one.vector) for one in matches] == [("a", None)]
        assert [one.id for one in finder.list_collections()] == ["photos"]
        assert finder.get_collection("photos").dimension == 2
        for refused in (
            lambda: finder.search("photos", [[1.0, 0.0]], include_vectors=True),
            lambda: finder.get_items("photos", ["a"]),
            lambda: list(finder.list_items("photos")),
        ):
            with pytest.raises(PermissionDenied, match="needs the right `read` on collection `photos`"):
                refused()
        with pytest.raises(PermissionDenied, match="needs the right `search` on collection `secret`"):
            finder.search("secret", [[1.0, 0.0]])


def test_the_audit_log_tells_who_took_templates_and_who_erased(access: Access) -> None:
    effects = ("items", "failed", "written", "deleted", "purged", "returned", "vectors")
    with access.client(access.owner) as owner:
        written = [NewItem(f"audited-{n}", [1.0, n], {"kind": "audited"}) for n in range(3)]
        list(owner.ingest("photos", [*written, NewItem("longer", [1.0, 0.0, 0.0])], request_id="in"))
        mine = field("kind") == "audited"
        owner.search("photos", [[1.0, 0.0]] * 2, top_k=3, where=mine, request_id="searched")
        owner.search("photos", [[1.0, 0.0]], top_k=1, where=mine, include_vectors=True, request_id="taken")
        owner.get_items("photos", ["audited-0", "nobody"], request_id="read")
        list(owner.list_items("photos", where=mine, include_vectors=True, request_id="exported"))
        owner.delete_items("photos", ["audited-0", "nobody"], request_id="deleted")
        owner.delete_items("photos", where=mine, purge=True, request_id="erased")

    def lines() -> dict[tuple[object, object], tuple[object, ...]]:
        return {(one["request_id"], one["event"]): tuple(one[name] for name in effects) for one in access.audit()}

    until(lambda: ("erased", "call") in lines())
    told = lines()
    assert told["in", "message"] == (4, 1, 3, 0, False, 0, False)
    assert told["in", "stream"] == (0, 0, 0, 0, False, 0, False)
    assert told["searched", "call"] == (2, 0, 0, 0, False, 6, False)
    assert told["taken", "call"] == (1, 0, 0, 0, False, 1, True)
    assert told["read", "call"] == (2, 1, 0, 0, False, 1, False)
    assert told["exported", "call"] == (1, 0, 0, 0, False, 3, True)
    assert told["deleted", "call"] == (2, 1, 0, 1, False, 0, False)
    assert told["erased", "call"] == (1, 0, 0, 2, True, 0, False)


def test_the_audit_log_tells_which_model_was_run_and_how_many_failed(access: Access, photos: dict[str, bytes]) -> None:
    with access.client(access.owner) as owner:
        owner.embed([photos["coins"], b"no picture"], request_id="embedded")
        list(owner.embed_stream([photos["coins"]], request_id="streamed"))
        owner.embed([b"no picture"], model="base", request_id="unread")
        owner.compare([([1.0] + [0.0] * 255, [1.0] + [0.0] * 255)], request_id="compared")
        owner.create_collection("photos-base", model="base")
        item = NewItem("a", photos["coins"])
        owner.upsert("photos-base", [item], request_id="written")
        owner.search("photos-base", [ItemId("a")], request_id="by-id")
        owner.search("photos-base", [photos["coins"], ItemId("nobody")], request_id="by-picture")
        owner.delete_collection("photos-base", request_id="gone")

    def lines() -> dict[tuple[object, object], tuple[object, ...]]:
        fields = ("model", "items", "failed")
        return {(one["request_id"], one["event"]): tuple(one[name] for name in fields) for one in access.audit()}

    until(lambda: ("gone", "call") in lines())
    told = lines()
    assert told["embedded", "call"] == ("base", 2, 1)
    assert (told["streamed", "message"], told["streamed", "stream"]) == (("base", 1, 0), ("", 0, 0))
    assert told["unread", "call"] == ("base", 1, 1)
    assert told["compared", "call"] == ("", 2, 0)
    assert told["written", "call"] == ("base", 1, 0)
    assert told["by-id", "call"] == ("", 1, 0)
    assert told["by-picture", "call"] == ("base", 2, 1)
    assert told["gone", "call"] == ("", 0, 0)


def test_secrets_are_in_no_output_of_a_server(tmp_path: Path, cache_dir: Path, photos: dict[str, bytes]) -> None:
    file, audit = tmp_path / "keys.json", tmp_path / "audit.jsonl"
    secret = "a-jwt-secret-of-more-than-thirty-two-bytes"  # noqa: S105 - of this test alone
    (tmp_path / "secret").write_text(secret)
    key = new_key(file, "phone", "read", "photos*")
    flags = (
        *("--api-keys", str(file), "--audit-log", str(audit)),
        *("--metrics-listen", "127.0.0.1:0", "--log-level", "debug"),
        *("--jwt-secret", str(tmp_path / "secret"), "--jwt-issuer", "i", "--jwt-audience", "a"),
    )
    stranger, jwt = "tws_" + "s" * 43, "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"
    with serving(tmp_path / "data", cache_dir, *flags) as (process, _):
        for token in (key, stranger, jwt, f"{key}x"):
            with Client(process.address, token=token, retry=ONCE) as client:
                try:
                    client.embed([photos["coins"]])
                    client.search("photos", [np.ones(2)])
                except (NotFound, Unauthenticated) as error:
                    assert token not in str(error)  # noqa: PT017
        file.write_text(f'{{"keys": {{"{key}": 1}}}}')
        with Client(process.address, token=key, retry=ONCE) as client:
            until(lambda: bool(client.list_models()) and "stay in force" in (tmp_path / "serve.log").read_text())
        metrics = process.metrics()
        assert process.end(signal.SIGTERM) == 0
    shown = metrics + (tmp_path / "serve.log").read_text() + audit.read_text()
    assert "key:phone" in shown
    for hidden in (key, stranger, jwt, secret):
        assert hidden not in shown


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.0.0.1:0", "photos.example:0"])
def test_tokens_in_plain_text_are_refused_where_others_can_reach_the_server(tmp_path: Path, listen: str) -> None:
    with pytest.raises(StartupError, match="has no TLS"):
        ServerConfig(listen=listen, api_keys=tmp_path / "keys.json")
    ServerConfig(listen=listen, api_keys=tmp_path / "keys.json", plaintext_tokens=True)
    ServerConfig(listen="localhost:0", api_keys=tmp_path / "keys.json")


def test_settings_of_jwts_go_together(tmp_path: Path) -> None:
    for secret, issuer, audience in ((tmp_path, "", ""), (None, "i", "a"), (None, "i", "")):
        with pytest.raises(StartupError, match="JWTs need `jwt_issuer`, `jwt_audience`, and"):
            ServerConfig(jwt_secret=secret, jwt_issuer=issuer, jwt_audience=audience)
