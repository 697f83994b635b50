"""Exit codes of the command line, and errors on their way to the terminal: one line each, no tracebacks."""

from __future__ import annotations

from twinsight_client.cli.help import KEEP
from twinsight_client.errors import DeadlineExceeded, ServerError, TwinsightClientError, Unavailable

FAILED = 1
USAGE = 2  # click's own
PARTIAL = 3
UNREACHABLE = 4
INTERRUPTED = 130

HELP = f"""{KEEP}Exit codes:
  0    done
  1    the server refused or failed, or a file could not be used
  2    the command line is wrong
  3    done, except for items that could not be; they are listed
  4    the server can't be reached, is not ready or took too long
  130  interrupted"""


_UNREACHED = (
    (
        ("Connection refused", "errors resolving", "No such file or directory"),
        "No server answers at {target} ({message}). Start one with: twinsight serve",
    ),
    (
        ("Hostname Verification",),
        "The certificate of {target} is for another name ({message}). Say which to expect with --tls-server-name.",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED",),
        "The certificate of {target} is not trusted ({message}). Unless it has expired, say with --tls-ca whom to "
        "trust.",
    ),
    (("WRONG_VERSION_NUMBER",), "{target} answers without TLS ({message}). Leave out --tls and --tls-ca."),
    (
        ("handshake",),
        "No TLS could be agreed on with {target} ({message}). See to --tls-ca and --tls-server-name.",
    ),
    (
        ("Socket closed", "Connection reset"),
        "{target} closed the connection ({message}). It may have ended, or want TLS (--tls-ca, --tls-server-name) or "
        "a certificate of yours (--tls-cert, --tls-key).",
    ),
)
"""Of the texts with which gRPC tells that a connection failed, parts of them and what to say; the first that fits."""

_NO_ANSWER = "No answer from {target} ({message})."


def exit_code(error: TwinsightClientError) -> int:
    """Returns the exit code that stands for an error."""
    return UNREACHABLE if isinstance(error, Unavailable | DeadlineExceeded) else FAILED


def one_line(error: TwinsightClientError, *, target: str) -> str:
    """Returns what a person at the terminal should read about an error."""
    message = " ".join(error.message.split())
    if isinstance(error, Unavailable) and not error.reason:
        # gRPC's own text tells of sockets and nothing of what to do.
        said = next((text for parts, text in _UNREACHED if any(part in message for part in parts)), _NO_ANSWER)
        return said.format(target=target, message=message)
    if isinstance(error, DeadlineExceeded):
        return f"The server at {target} did not answer in time. Give it longer with --timeout."
    if isinstance(error, ServerError):
        return f"{message} [{error.code}, request {error.request_id or 'unknown'}]"
    return f"{message} [{error.reason or error.code}]"
