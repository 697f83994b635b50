"""Everything that twinsight rejects or fails at, as one tree.

    TwinsightError
    ├── InvalidInput            the caller's mistake; says which field and which rule
    │   └── InvalidImage        a picture that can't be used
    ├── NotFound                no model, collection or item of that name
    ├── AlreadyExists
    ├── FailedPrecondition      right call, wrong state: another model's vector, say
    ├── Unauthenticated         the caller has not proved who it is
    ├── PermissionDenied        the caller may not do that
    ├── Overloaded              rejected because of load; says when to retry
    ├── LimitReached            a limit on what is stored is reached; retrying changes nothing
    ├── AnswerTooLarge          what was asked for does not fit in one response
    ├── StorageFull             the disk has no room; nothing was written
    ├── DeadlineExceeded        the caller's time ran out before the work was done
    ├── Cancelled               the caller is gone
    ├── Unavailable             starting or draining
    ├── DataLoss                stored data is damaged; nothing was deleted
    ├── TrainingError           a training run can't continue; its last good checkpoint is kept
    └── StartupError            can't start; the message is for the person at the terminal
        └── PackageError        a model package that can't be read

Each error's text may be shown to the caller. `reason` is stable and meant for programs. The server maps the classes to
status codes in one place (`twinsight_server.status`).
"""

from __future__ import annotations

from collections.abc import Iterable


class TwinsightError(Exception):
    """Base of the tree.

    Args:
        listed: details of the message; each gets a line of its own below it.

    Attributes:
        message: the name, the value and the rule, for a person.
        reason: stable UPPER_SNAKE_CASE word for programs.
        field: path of the offending field as the caller wrote it (`images[3].encoded`); empty if there is none.
        lines: the message's own lines; a line break within one comes from the data it quotes.
    """

    def __init__(self, message: str, *, reason: str, field: str = "", listed: Iterable[str] = ()) -> None:
        self.lines = (message, *(f"  {one}" for one in listed))
        self.message = "\n".join(self.lines)
        super().__init__(self.message)
        self.reason = reason
        self.field = field

    def under(self, prefix: str) -> TwinsightError:
        """Returns this error with `prefix` put before its field's path; the object itself changes."""
        self.field = f"{prefix}.{self.field}" if self.field else prefix
        return self


class InvalidInput(TwinsightError):
    """The request breaks a rule; sending it again changes nothing."""


class InvalidImage(InvalidInput):
    """The picture can't be used: unreadable, unsupported, too large, or its region is wrong."""


class NotFound(TwinsightError):
    """Nothing has that name."""

    @classmethod
    def among(cls, kind: str, name: str, existing: Iterable[str], *, reason: str, field: str = "") -> NotFound:
        """Returns the error for a missing `kind`, naming up to 20 of those that exist."""
        names = sorted(existing)
        name = name if len(name) <= 80 else name[:80] + "…"
        shown = ", ".join(f"`{one}`" for one in names[:20]) + (
            f" and {len(names) - 20} more" if len(names) > 20 else ""
        )
        return cls(f"{kind} `{name}` does not exist; available: {shown or 'none'}.", reason=reason, field=field)


class AlreadyExists(TwinsightError):
    """The name is taken."""


class FailedPrecondition(TwinsightError):
    """The call does not fit the state of what it refers to."""


class Unauthenticated(TwinsightError):
    """The caller has not proved who it is; the text is the same whatever is wrong."""


class PermissionDenied(TwinsightError):
    """The caller lacks a right; the text is the same whether what it asked for exists or not."""


class Overloaded(TwinsightError):
    """Rejected at once because of load.

    Attributes:
        retry_after_s: seconds after which a retry may succeed.
    """

    def __init__(self, message: str, *, retry_after_s: float, reason: str = "QUEUE_FULL") -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s


class LimitReached(TwinsightError):
    """A limit on what is stored is reached; it stays so until something is deleted."""


class AnswerTooLarge(TwinsightError):
    """What was asked for does not fit in one response; asking for less helps, retrying does not."""


class StorageFull(TwinsightError):
    """The disk has no room; nothing of the call was written."""


class DeadlineExceeded(TwinsightError):
    """The caller's deadline passed before the work was done; the work was dropped."""


class Cancelled(TwinsightError):
    """The caller is gone; the work was dropped."""


class Unavailable(TwinsightError):
    """The server is starting or draining."""


class DataLoss(TwinsightError):
    """Stored data can't be read; nothing was deleted."""


class TrainingError(TwinsightError):
    """A training run can't start or continue; checkpoints that were written are kept."""


class StartupError(TwinsightError):
    """The server or a command can't start."""


class PackageError(StartupError):
    """A model package can't be read or does not hold what its card says."""
