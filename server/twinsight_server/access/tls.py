"""TLS for the listener, from files that may be replaced while it serves.

1. Before each handshake gRPC calls `Certificates.changed`, which reads the files and checks them if they changed.
2. A certificate, its key and the authorities of mutual TLS are replaced together or not at all: if they are broken or
   half written, the old ones stay in service, and the log says so.
3. Open connections keep the files they were made with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from twinsight_core.errors import StartupError
from twinsight_server.access.watched import WatchedFiles

log = structlog.stdlib.get_logger("twinsight.tls")

_SOON = timedelta(days=7)
_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


@dataclass(frozen=True, repr=False)
class _Material:
    """What a handshake needs, checked; from `not_after` on, clients reject it."""

    key: bytes
    chain: bytes
    authorities: bytes | None
    not_after: datetime

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)], self.authorities)


class Certificates:
    """The server's certificate, and the authorities whose clients it accepts."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Reads and checks the files.

        Raises:
            StartupError: one can't be read or used, or the key does not match the certificate.
        """
        paths = [key, certificate, *([client_ca] if client_ca else [])]
        self._files = WatchedFiles(paths, _material, reason="TLS_FILE_UNREADABLE", interval_s=0.0)
        self._mutual = client_ca is not None
        self._given = self._files.current()
        _warn_of_expiry(self._given)

    def end_s(self) -> float:
        """Returns when the first certificate in the file of the chain expires, in seconds since 1970."""
        return self._files.current().not_after.timestamp()

    def credentials(self) -> grpc.ServerCredentials:
        """Returns the credentials to bind a listener with."""
        # The stubs omit that it may return None if nothing changed.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", self.changed)
        return grpc.dynamic_ssl_server_credentials(
            self._given.configuration(), fetch, require_client_authentication=self._mutual
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns the configuration to use from now on; None: the current one."""
        current = self._files.current()
        if current is self._given:
            return None
        self._given = current
        _warn_of_expiry(current)
        return current.configuration()


def _material(contents: Sequence[bytes]) -> _Material:
    """Checks a key, its chain and the authorities: gRPC would only report that the port can't be bound."""
    key, chain, *rest = contents
    authorities = rest[0] if rest else None
    try:
        leaf, *_ = certificates = _certificates(chain)
        not_after = min(one.not_valid_after_utc for one in certificates)
        if authorities is not None:
            _certificates(authorities)
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _invalid(str(error)) from error
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise _invalid("the key does not match the certificate")
    return _Material(key, chain, authorities, not_after)


def _warn_of_expiry(material: _Material) -> None:
    """Warns of a certificate that clients reject, or soon will; the server itself accepts any."""
    left = material.not_after - datetime.now(UTC)
    if left < timedelta():
        log.warning("certificate has expired; clients reject it", not_after=material.not_after.isoformat())
    elif left < _SOON:
        log.warning("certificate expires soon", not_after=material.not_after.isoformat())


def _certificates(pem: bytes) -> list[x509.Certificate]:
    """Reads all certificates of a file.

    Raises:
        ValueError: there are none, or one is incomplete, which the parser skips silently.
    """
    found = x509.load_pem_x509_certificates(pem)
    if not len(found) == pem.count(_BEGIN) == pem.count(_END):
        raise ValueError("a certificate is incomplete")
    return found


def _invalid(why: str) -> StartupError:
    return StartupError(f"The TLS files can't be used: {why.rstrip('.')}.", reason="TLS_FILE_INVALID")
