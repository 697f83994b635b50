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


def exit_code(error: TwinsightClientError) -> int:
    """Returns the exit code that stands for an error."""
    return UNREACHABLE if isinstance(error, Unavailable | DeadlineExceeded) else FAILED


def one_line(error: TwinsightClientError, *, target: str) -> str:
    """Returns what a person at the terminal should read about an error."""
    message = " ".join(error.message.split())
    if isinstance(error, Unavailable) and not error.reason:
        # gRPC's own text tells of sockets and nothing of what to do.
        return f"No server answers at {target} ({message}). Start one with: twinsight serve"
    if isinstance(error, DeadlineExceeded):
        return f"The server at {target} did not answer in time. Give it longer with --timeout."
    if isinstance(error, ServerError):
        return f"{message} [{error.code}, request {error.request_id or 'unknown'}]"
    return f"{message} [{error.reason or error.code}]"
