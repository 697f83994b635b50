"""Settings of the connection: message sizes, keep-alive, TLS."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import grpc

DEFAULT_TARGET = "127.0.0.1:50051"
MEBIBYTE = 1024 * 1024
_HOST_AND_PORT = re.compile(r"(?:\[(?P<address>[^\]]*)\]|(?P<host>[^:/\[\]]+))(?::\d+)?")


@dataclass(frozen=True)
class ChannelOptions:
    """Limits and timings of the connection.

    Attributes:
        max_receive_bytes: largest response accepted.
        max_send_bytes: largest request sent; the server has its own limit. If that is lower, give it here, too: a thing
            that is too large then fails alone in a stream, instead of ending it.
        keepalive_s: interval between pings during a call. A twinsight server treats more than one in ten seconds as
            abuse, other gRPC servers and proxies more than one in five minutes.
        keepalive_timeout_s: a connection whose ping goes unanswered for this long counts as dead.
        longest_reconnect_wait_s: longest wait between attempts to connect to a server that is down.
        allow_plaintext_token: send the token to other machines without TLS, too; otherwise that is a ValueError.
    """

    max_receive_bytes: int = 64 * MEBIBYTE
    max_send_bytes: int = 64 * MEBIBYTE
    keepalive_s: float = 300.0
    keepalive_timeout_s: float = 20.0
    longest_reconnect_wait_s: float = 2.0
    allow_plaintext_token: bool = False


@dataclass(frozen=True)
class Tls:
    """TLS, or mutual TLS with a client certificate. Files are PEM.

    Attributes:
        ca: certificates to trust; None: those that gRPC ships with.
        certificate: the client's certificate chain, for mutual TLS.
        key: the private key of `certificate`.
        server_name: name to expect in the server's certificate, if it is not the target's host.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files.

        Raises:
            OSError: a file can't be read.
            ValueError: a certificate without its key, a key without its certificate, or a file that is not PEM.
        """
        if (self.certificate is None) != (self.key is None):
            raise ValueError("A client certificate and its key must be given together.")
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.ca),
            private_key=_pem(self.key),
            certificate_chain=_pem(self.certificate),
        )


def _pem(path: Path | str | None) -> bytes | None:
    """Returns a file's content, without the mark that Windows's editors begin it with.

    An empty one must not reach gRPC, which takes no certificates for the public ones, and ends the process over a key.

    Raises:
        OSError: it can't be read.
        ValueError: it is not PEM, or the path is empty.
    """
    if path is None:
        return None
    if not str(path):
        raise ValueError("The path of a certificate or key is empty.")
    content = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    if not re.search(rb"^-----BEGIN ", content, re.MULTILINE):
        raise ValueError(f"{path}: not a PEM file: no line begins with `-----BEGIN`.")
    return content


def channel_arguments(target: str, options: ChannelOptions, tls: Tls | None) -> list[tuple[str, str | int]]:
    """Returns gRPC's arguments for a channel to `target`."""
    arguments: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", options.max_receive_bytes),
        ("grpc.max_send_message_length", options.max_send_bytes),
        ("grpc.keepalive_time_ms", round(options.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(options.keepalive_timeout_s * 1000)),
        # gRPC's own waits grow to two minutes: far too long for a user who has just started the server.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", round(options.longest_reconnect_wait_s * 1000)),
    ]
    if _is_loopback(target):
        # A proxy from the environment can't reach this machine's own addresses.
        arguments.append(("grpc.enable_http_proxy", 0))
    if tls is not None and tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    return arguments


def is_local(target: str) -> bool:
    """Whether what is sent to `target` stays on this machine."""
    return target.startswith(("unix:", "unix-abstract:")) or _is_loopback(target)


def _is_loopback(target: str) -> bool:
    """Whether the host is `localhost` or a loopback address; a name such as 127.example.org may be any machine."""
    found = _HOST_AND_PORT.fullmatch(target)
    if found is None:
        return False
    host = found["address"] or found["host"]
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
