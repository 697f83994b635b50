from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from twinsight_client import ChannelOptions, Client, RetryPolicy, Tls, Unavailable
from twinsight_core.errors import StartupError
from twinsight_server.app import Server
from twinsight_server.config import ServerConfig


class Files:
    """An authority, a certificate of the server's and one of a client's, as files."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.server = self._pair(authority.issue_cert("localhost", "127.0.0.1"), folder / "server")
        self.client = self._pair(authority.issue_cert("client@example.org"), folder / "client")

    @staticmethod
    def _pair(issued: trustme.LeafCert, base: Path) -> tuple[Path, Path]:
        chain, key = base.with_suffix(".pem"), base.with_suffix(".key")
        chain.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return chain, key


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, files: Files) -> Iterator[str]:
    """A server that demands client certificates."""
    server = Server(
        ServerConfig(
            listen="127.0.0.1:0",
            data_dir=tmp_path_factory.mktemp("data"),
            cache_dir=cache_dir,
            models="base",
            batch_size=1,
            tls_cert=files.server[0],
            tls_key=files.server[1],
            tls_client_ca=files.ca,
        )
    )
    server.start()
    yield server.address
    server.stop()


def client(address: str, tls: Tls | None) -> Client:
    return Client(
        address,
        tls=tls,
        retry=RetryPolicy(attempts=1),
        channel=ChannelOptions(longest_reconnect_wait_s=0.1),
        timeout_s=5,
    )


def test_a_client_with_a_certificate_is_served(address: str, files: Files) -> None:
    chain, key = files.client
    with client(address, Tls(ca=files.ca, certificate=chain, key=key)) as connected:
        assert connected.get_model().name == "base"


def test_a_client_without_a_certificate_is_not(address: str, files: Files) -> None:
    with client(address, Tls(ca=files.ca)) as connected, pytest.raises(Unavailable):
        connected.get_model()


def test_a_client_that_trusts_another_authority_is_not(address: str, tmp_path: Path) -> None:
    other = Files(tmp_path)
    chain, key = other.client
    with client(address, Tls(ca=other.ca, certificate=chain, key=key)) as connected, pytest.raises(Unavailable):
        connected.get_model()


def test_a_client_in_plain_text_is_not(address: str) -> None:
    with client(address, None) as connected, pytest.raises(Unavailable):
        connected.get_model()


def test_a_missing_certificate_is_told_before_anything_is_served(tmp_path: Path, cache_dir: Path) -> None:
    config = ServerConfig(
        listen="127.0.0.1:0",
        data_dir=tmp_path,
        cache_dir=cache_dir,
        tls_cert=tmp_path / "none.pem",
        tls_key=tmp_path / "none.key",
    )
    with pytest.raises(StartupError, match=r"none\.key: can't be read \(No such file or directory\)"):
        Server(config)


def test_a_key_of_another_certificate_is_told(tmp_path: Path, cache_dir: Path, files: Files) -> None:
    config = ServerConfig(
        listen="127.0.0.1:0",
        data_dir=tmp_path,
        cache_dir=cache_dir,
        tls_cert=files.server[0],
        tls_key=files.client[1],
    )
    with pytest.raises(StartupError, match="The TLS files can't be used"):
        Server(config)
