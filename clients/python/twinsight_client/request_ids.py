"""Names of calls: sent with each, and found in the server's log and in errors."""

from __future__ import annotations

import uuid


def new_request_id() -> str:
    """Returns an id that no other call has."""
    return uuid.uuid4().hex
