"""What is said of a server that can't be reached, by the texts that gRPC really has."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
import trustme
from click.testing import CliRunner

from twinsight_client.cli import main
from twinsight_client.cli.exits import one_line
from twinsight_client.errors import Unavailable


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


@contextmanager
def listening(certificate: trustme.LeafCert | None = None, *, clients: trustme.CA | None = None) -> Iterator[str]:
    """A port that talks gRPC and knows no call."""
    server = grpc.server(ThreadPoolExecutor(1))
    if certificate is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = (certificate.private_key_pem.bytes(), b"".join(one.bytes() for one in certificate.cert_chain_pems))
        asked = None if clients is None else clients.cert_pem.bytes()
        credentials = grpc.ssl_server_credentials([pair], asked, require_client_auth=asked is not None)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def said(*options: object) -> str:
    result = CliRunner().invoke(main, [*map(str, options), "models"])
    assert (result.exit_code, result.stdout) == (4, "")
    return result.stderr


@pytest.mark.parametrize("target", ["127.0.0.1:1", "nowhere.invalid:50051", "unix:/tmp/nowhere.sock"])
def test_where_nothing_listens_a_server_is_to_be_started(target: str) -> None:
    told = said("--target", target)
    assert told.startswith(f"Error: No server answers at {target} (")
    assert told.endswith("). Start one with: twinsight serve\n")


def test_a_server_that_wants_tls_is_not_to_be_started_again(authority: trustme.CA, ca: Path) -> None:
    with listening(authority.issue_cert("127.0.0.1")) as target:
        told = said("--target", target)
    assert told.startswith(f"Error: {target} closed the connection (")
    assert "The server may have stopped, or it requires TLS (--tls-ca, --tls-server-name)" in told
    with listening(authority.issue_cert("127.0.0.1"), clients=authority) as target:
        told = said("--target", target, "--tls-ca", ca)
    assert told.startswith(f"Error: {target} closed the connection (")
    assert told.endswith("or a client certificate (--tls-cert, --tls-key).\n")


def test_a_server_without_tls_is_said_to_have_none(ca: Path) -> None:
    with listening() as target:
        told = said("--target", target, "--tls-ca", ca)
    assert told.startswith(f"Error: {target} does not use TLS (")
    assert told.endswith("). Omit --tls and --tls-ca.\n")


def test_a_certificate_for_another_name_is_told(authority: trustme.CA, ca: Path) -> None:
    with listening(authority.issue_cert("photos.example")) as target:
        told = said("--target", target, "--tls-ca", ca)
    assert told.startswith(f"Error: The certificate of {target} is for another name (")
    assert told.endswith("). Set the expected name with --tls-server-name.\n")


@pytest.mark.parametrize("why", ["of another authority", "expired"])
def test_a_certificate_that_is_not_trusted_is_told(authority: trustme.CA, ca: Path, why: str) -> None:
    if why == "expired":
        issued = authority.issue_cert("127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    else:
        issued = trustme.CA().issue_cert("127.0.0.1")
    with listening(issued) as target:
        told = said("--target", target, "--tls-ca", ca)
    assert told.startswith(f"Error: The certificate of {target} is not trusted (")
    assert ("certificate has expired" in told) == (why == "expired")
    assert told.endswith("). Unless it has expired, name the authority to trust with --tls-ca.\n")


def test_a_file_that_holds_no_certificates_is_told_of(authority: trustme.CA, tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    with listening(authority.issue_cert("127.0.0.1")) as target:
        told = said("--target", target, "--tls-ca", tmp_path / "none.pem")
    assert told.startswith(f"Error: The TLS handshake with {target} failed (")
    assert told.endswith("). Check --tls-ca and --tls-server-name.\n")


def test_of_what_gives_no_hint_no_advice_is_given() -> None:
    assert (
        one_line(Unavailable("Too many\nopen {files}"), target="a:1") == "No answer from a:1 (Too many open {files})."
    )
