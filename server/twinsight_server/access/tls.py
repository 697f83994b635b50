"""TLS for the listener, from files that may be replaced while it serves.

1. Before each handshake gRPC asks `Certificates.changed`; the files are read, and checked where they changed.
2. A certificate, its key and the authorities of mutual TLS are taken together or not at all: a pair that is broken or
   half written leaves the old one in service, and a line in the log.
3. Connections that are open keep what they were made with.
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
    """What a handshake needs, checked; `not_after` is when clients refuse it from on."""

    key: bytes
    chain: bytes
    authorities: bytes | None
    not_after: datetime

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)], self.authorities)


class Certificates:
    """The server's certificate and the authorities whose clients it lets in."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Reads and checks the files.

        Raises:
            StartupError: one can't be read, or they don't fit together.
        """
        paths = [key, certificate, *([client_ca] if client_ca else [])]
        self._files = WatchedFiles(paths, _material, reason="TLS_FILE_UNREADABLE", interval_s=0.0)
        self._mutual = client_ca is not None
        self._given = self._files.current()
        _tell_expiry(self._given)

    def end_s(self) -> float:
        """Returns when the first certificate of the chain that is in its file expires, in seconds since 1970."""
        return self._files.current().not_after.timestamp()

    def credentials(self) -> grpc.ServerCredentials:
        """Returns what a listener is bound with."""
        # The stubs leave out that None is the answer where nothing changed.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", self.changed)
        return grpc.dynamic_ssl_server_credentials(
            self._given.configuration(), fetch, require_client_authentication=self._mutual
        )

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what to use from now on; None: what is in use."""
        current = self._files.current()
        if current is self._given:
            return None
        self._given = current
        _tell_expiry(current)
        return current.configuration()


def _material(contents: Sequence[bytes]) -> _Material:
    """Checks a key, its chain and the authorities: gRPC would only say that the port can't be bound."""
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
        raise _invalid("the key is another certificate's")
    return _Material(key, chain, authorities, not_after)


def _tell_expiry(material: _Material) -> None:
    """Warns of a certificate that clients refuse, or soon will: the server itself works with any."""
    left = material.not_after - datetime.now(UTC)
    if left < timedelta():
        log.warning("the certificate has expired: clients refuse it", not_after=material.not_after.isoformat())
    elif left < _SOON:
        log.warning("the certificate expires soon", not_after=material.not_after.isoformat())


def _certificates(pem: bytes) -> list[x509.Certificate]:
    """Reads all certificates of a file.

    Raises:
        ValueError: there are none, or one is incomplete, which the parser passes over in silence.
    """
    found = x509.load_pem_x509_certificates(pem)
    if not len(found) == pem.count(_BEGIN) == pem.count(_END):
        raise ValueError("a certificate is incomplete")
    return found


def _invalid(why: str) -> StartupError:
    return StartupError(f"The TLS files can't be used: {why.rstrip('.')}.", reason="TLS_FILE_INVALID")
