from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog.testing
import trustme

from twinsight_client import ChannelOptions, Client, RetryPolicy, Tls, Unavailable
from twinsight_core.errors import StartupError
from twinsight_server.app import Server
from twinsight_server.config import ServerConfig


class Files:
    """An authority, a certificate of the server's and one of a client's, as files."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))
        self.server = self._pair(self._issued(), folder / "server")
        self.client = self._pair(self._authority.issue_cert("client@example.org"), folder / "client")

    def renew(self) -> None:
        """Puts another certificate, with another key, in the place of the server's."""
        self._pair(self._issued(), self.server[0].with_suffix(""))

    def _issued(self) -> trustme.LeafCert:
        return self._authority.issue_cert("localhost", "127.0.0.1")

    @staticmethod
    def _pair(issued: trustme.LeafCert, base: Path) -> tuple[Path, Path]:
        chain, key = base.with_suffix(".pem"), base.with_suffix(".key")
        chain.write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return chain, key


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@contextmanager
def serving(folder: Path, cache_dir: Path, files: Files) -> Iterator[str]:
    """A server that demands client certificates."""
    server = Server(
        ServerConfig(
            listen="127.0.0.1:0",
            data_dir=folder,
            cache_dir=cache_dir,
            models="base",
            batch_size=1,
            tls_cert=files.server[0],
            tls_key=files.server[1],
            tls_client_ca=files.ca,
        )
    )
    server.start()
    try:
        yield server.address
    finally:
        server.stop()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path, files: Files) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("data"), cache_dir, files) as made:
        yield made


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


ROTATIONS = int(os.environ.get("TWINSIGHT_TEST_ROTATIONS", "10"))
"""How often the certificate is replaced under load; more for a long run."""


def test_no_call_fails_while_certificates_are_replaced(tmp_path: Path, cache_dir: Path) -> None:
    files = Files(tmp_path)
    chain, key = files.client
    tls = Tls(ca=files.ca, certificate=chain, key=key)
    over = threading.Event()

    def call_again_and_again(*, reconnecting: bool) -> int:
        calls = 0
        while not over.is_set():
            with client(where, tls) as connected:
                connected.get_model()
                calls += 1
                while not (reconnecting or over.is_set()):
                    connected.get_model()
                    calls += 1
        return calls

    with serving(tmp_path / "data", cache_dir, files) as where, ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(call_again_and_again, reconnecting=n % 2 == 0) for n in range(4)]
        served = {served_certificate(where, files)}
        try:
            for _ in range(ROTATIONS):
                files.renew()
                served.add(served_certificate(where, files))
        finally:
            over.set()
        assert all(one.result(60) > 0 for one in callers)
    assert len(served) == ROTATIONS + 1


@pytest.mark.parametrize("broken", ["half a certificate", "half a chain", "another key", "no file", "not PEM"])
def test_a_broken_pair_leaves_the_old_one_in_service(tmp_path: Path, address: str, files: Files, broken: str) -> None:
    chain, key = files.server
    before = chain.read_bytes(), key.read_bytes()
    old = served_certificate(address, files)
    try:
        with structlog.testing.capture_logs() as lines:
            match broken:
                case "half a certificate":
                    chain.write_bytes(before[0][: len(before[0]) // 2])
                case "half a chain":
                    chain.write_bytes(before[0] + before[0][: len(before[0]) // 2])
                case "another key":
                    key.write_bytes(files.client[1].read_bytes())
                case "no file":
                    key.rename(tmp_path / "away")
                case _:
                    chain.write_bytes(b"nothing of the kind")
            for _ in range(2):
                assert served_certificate(address, files) == old
        warnings = [line for line in lines if line["log_level"] == "warning"]
        assert len(warnings) == 1, "once for each change"
        assert "stay in force" in warnings[0]["event"]
        assert "PRIVATE KEY" not in str(lines)
    finally:
        chain.write_bytes(before[0])
        key.write_bytes(before[1])
    assert served_certificate(address, files) == old


def test_other_authorities_count_from_the_next_connection_on(tmp_path: Path, cache_dir: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = Files(tmp_path / "old"), Files(tmp_path / "new")
    with serving(tmp_path / "data", cache_dir, old) as address:
        known, unknown = (Tls(ca=old.ca, certificate=one.client[0], key=one.client[1]) for one in (old, new))
        with client(address, unknown) as refused, pytest.raises(Unavailable):
            refused.get_model()
        with client(address, known) as stays:
            stays.get_model()
            old.ca.with_suffix(".kept").write_bytes(old.ca.read_bytes())
            new.ca.replace(old.ca)
            trusting = Tls(ca=old.ca.with_suffix(".kept"), certificate=new.client[0], key=new.client[1])
            with client(address, trusting) as taken:
                taken.get_model()
            trusted_before = Tls(ca=trusting.ca, certificate=old.client[0], key=old.client[1])
            with client(address, trusted_before) as refused, pytest.raises(Unavailable):
                refused.get_model()
            stays.get_model()


def served_certificate(address: str, files: Files) -> bytes:
    """The certificate that a new connection is shown."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(files.ca))
    context.load_cert_chain(*files.client)
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection((host, int(port)), timeout=10)
    with context.wrap_socket(plain, server_hostname="localhost") as shaken:
        shown = shaken.getpeercert(binary_form=True)
    assert shown
    return shown
