"""Exit codes of the command line, and error messages for the terminal: one line each, no tracebacks."""

from __future__ import annotations

from twinsight_client.cli.help import KEEP
from twinsight_client.errors import DeadlineExceeded, ServerError, TwinsightClientError, Unavailable

FAILED = 1
USAGE = 2  # click's own
PARTIAL = 3
UNREACHABLE = 4
INTERRUPTED = 130

HELP = f"""{KEEP}Exit codes:
  0    success
  1    the server rejected the call or failed, or a file could not be used
  2    invalid command line
  3    success except for some items, which are listed
  4    the server is unreachable, not ready or too slow
  130  interrupted"""


_UNREACHED = (
    (
        ("Connection refused", "errors resolving", "No such file or directory"),
        "No server answers at {target} ({message}). Start one with: twinsight serve",
    ),
    (
        ("Hostname Verification",),
        "The certificate of {target} is for another name ({message}). Set the expected name with --tls-server-name.",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED",),
        "The certificate of {target} is not trusted ({message}). Unless it has expired, name the authority to trust "
        "with --tls-ca.",
    ),
    (("WRONG_VERSION_NUMBER",), "{target} does not use TLS ({message}). Omit --tls and --tls-ca."),
    (
        ("handshake",),
        "The TLS handshake with {target} failed ({message}). Check --tls-ca and --tls-server-name.",
    ),
    (
        ("Socket closed", "Connection reset"),
        "{target} closed the connection ({message}). The server may have stopped, or it requires TLS (--tls-ca, "
        "--tls-server-name) or a client certificate (--tls-cert, --tls-key).",
    ),
)
"""Parts of gRPC's messages about failed connections, and the message to print; the first match counts."""

_NO_ANSWER = "No answer from {target} ({message})."


# Reasons of Unavailable with which the server serves nobody; with others it could not do this one thing.
_NOT_READY = frozenset({"", "STARTING", "DRAINING", "CATALOG_CLOSED", "NOT_SERVING"})


def exit_code(error: TwinsightClientError) -> int:
    """Returns the exit code for an error."""
    is_unready = isinstance(error, Unavailable) and error.reason in _NOT_READY
    return UNREACHABLE if is_unready or isinstance(error, DeadlineExceeded) else FAILED


def one_line(error: TwinsightClientError, *, target: str) -> str:
    """Returns the message to print for an error."""
    message = " ".join(error.message.split())
    if isinstance(error, Unavailable) and not error.reason:
        # gRPC's own text is about sockets and does not say what to do.
        said = next((text for parts, text in _UNREACHED if any(part in message for part in parts)), _NO_ANSWER)
        return said.format(target=target, message=message)
    if isinstance(error, DeadlineExceeded):
        return f"The server at {target} did not respond in time. Raise the deadline with --timeout."
    if isinstance(error, ServerError):
        return f"{message} [{error.code}, request {error.request_id or 'unknown'}]"
    return f"{message} [{error.reason or error.code}]"
