"""Ids of calls, sent with each call and found in the server's log and in errors."""

from __future__ import annotations

import re
import uuid

from twinsight_client.errors import FieldViolation, InvalidArgument

_PATTERN = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""The server's own pattern: it would replace any other id, and some characters can't be sent in a header."""


def new_request_id() -> str:
    """Returns an id that no other call has."""
    return uuid.uuid4().hex


def request_id_for(given: str) -> str:
    """Returns the caller's id, or a new one if that is empty.

    Raises:
        InvalidArgument: `given` is not a valid id.
    """
    if not given:
        return new_request_id()
    if not _PATTERN.fullmatch(given):
        message = f"`request_id` (={given!r}) must be 1 to 128 ASCII letters, digits and any of `._:/+=-`."
        raise InvalidArgument(message, reason="CLIENT_CHECK", violations=[FieldViolation("request_id", message)])
    return given
