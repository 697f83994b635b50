"""How the connection is made."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from twinsight_client import ChannelOptions, Client, HealthStatus, RetryPolicy, Tls, Unavailable
from twinsight_client.channel import channel_arguments
from twinsight_client.cli import main

from .conftest import WireServer

pytestmark = pytest.mark.client

ONCE = RetryPolicy(attempts=1)


def test_limits_and_habits_become_grpcs_arguments() -> None:
    options = ChannelOptions(max_receive_bytes=1, max_send_bytes=2, keepalive_s=3.5, keepalive_timeout_s=4)
    arguments = dict(channel_arguments("photos.example:443", options, Tls(server_name="twin")))
    assert arguments == {
        "grpc.max_receive_message_length": 1,
        "grpc.max_send_message_length": 2,
        "grpc.keepalive_time_ms": 3500,
        "grpc.keepalive_timeout_ms": 4000,
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 2000,
        "grpc.ssl_target_name_override": "twin",
    }
    usual = dict(channel_arguments("photos.example:443", ChannelOptions(), None))
    assert usual["grpc.max_receive_message_length"] == usual["grpc.max_send_message_length"] == 64 * 1024 * 1024
    assert "grpc.ssl_target_name_override" not in usual


@pytest.mark.parametrize(
    ("target", "through_proxy"),
    [
        ("127.0.0.1:50051", False),
        ("localhost:50051", False),
        ("[::1]:50051", False),
        ("photos.example:443", True),
        ("10.0.0.1:50051", True),
    ],
)
def test_a_proxy_from_the_environment_is_not_asked_for_this_machine(target: str, through_proxy: bool) -> None:
    assert ("grpc.enable_http_proxy" not in dict(channel_arguments(target, ChannelOptions(), None))) == through_proxy


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^A client certificate and its key must be given together\.$"):
        Client("127.0.0.1:1", tls=Tls(certificate=tmp_path / "c.pem"))
    with pytest.raises(FileNotFoundError):
        Client("127.0.0.1:1", tls=Tls(ca=tmp_path / "missing.pem"))


def test_an_empty_path_is_none_of_a_file(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN X-----\n")
    for tls in (Tls(ca=""), Tls(certificate="", key=key), Tls(certificate=key, key="")):
        with pytest.raises(ValueError, match=r"^The path of a certificate or key is empty\.$"):
            Client("127.0.0.1:1", tls=tls)


@pytest.mark.parametrize("content", [b"", b"\n", "-----BEGIN CERTIFICATE-----".encode("utf-16")])
@pytest.mark.parametrize("place", ["ca", "certificate", "key"])
def test_a_file_that_is_not_pem_never_reaches_grpc(tmp_path: Path, place: str, content: bytes) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "certificate", "key")}
    for name, file in files.items():
        file.write_bytes(content if name == place else b"-----BEGIN X-----\n")
    message = f"{files[place]}: not a PEM file: no line begins with `-----BEGIN`."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Client("127.0.0.1:1", tls=Tls(ca=str(files["ca"]), certificate=files["certificate"], key=files["key"]))
    arguments = [f"--tls-{name}={file}" for name, file in zip(("ca", "cert", "key"), files.values(), strict=True)]
    done = CliRunner().invoke(main, [*arguments, "models"])
    assert done.exit_code == 2
    assert done.stderr.endswith(f"Error: {message}\n")


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path


@dataclass(frozen=True)
class TlsServer:
    address: str
    server: Pair
    client: Pair


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[TlsServer]:
    """A server that demands a client certificate, and the certificates of both sides."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed")

    def issue(name: str) -> Pair:
        pair = Pair(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
             "-keyout", str(pair.key), "-out", str(pair.certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        return pair

    server_pair, client_pair = issue("twin.test"), issue("caller.test")
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(tuple(WireServer().handlers()))
    credentials = grpc.ssl_server_credentials(
        [(server_pair.key.read_bytes(), server_pair.certificate.read_bytes())],
        root_certificates=client_pair.certificate.read_bytes(),
        require_client_auth=True,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield TlsServer(f"127.0.0.1:{port}", server_pair, client_pair)
    server.stop(grace=None).wait()


def test_mutual_tls_lets_in_who_shows_a_certificate_and_nobody_else(tls_server: TlsServer) -> None:
    known = Tls(
        ca=tls_server.server.certificate,
        certificate=tls_server.client.certificate,
        key=tls_server.client.key,
        server_name="twin.test",
    )
    with Client(tls_server.address, tls=known) as client:
        assert client.health() is HealthStatus.SERVING
    stranger = Tls(ca=tls_server.server.certificate, server_name="twin.test")
    with Client(tls_server.address, tls=stranger, retry=ONCE) as client, pytest.raises(Unavailable):
        client.list_models()


def test_the_mark_that_windows_begins_a_file_with_is_none_of_the_certificate(tls_server: TlsServer) -> None:
    ca = tls_server.server.certificate
    ca.write_bytes(b"\xef\xbb\xbf" + ca.read_bytes())
    pair = tls_server.client
    tls = Tls(ca=ca, certificate=pair.certificate, key=pair.key, server_name="twin.test")
    with Client(tls_server.address, tls=tls) as client:
        assert client.health() is HealthStatus.SERVING


def test_a_server_with_another_certificate_than_trusted_is_refused(tls_server: TlsServer) -> None:
    wrong = Tls(
        ca=tls_server.client.certificate,
        certificate=tls_server.client.certificate,
        key=tls_server.client.key,
        server_name="twin.test",
    )
    with Client(tls_server.address, tls=wrong, retry=ONCE) as client, pytest.raises(Unavailable):
        client.list_models()
