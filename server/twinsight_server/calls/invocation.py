"""Reads a call's request id and deadline."""

from __future__ import annotations

import random
import re
import time

import grpc

from twinsight_server.access.guard import Metadata

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_LONGEST_S = 365 * 24 * 3600.0


def request_id_of(metadata: Metadata) -> str:
    """Returns the caller's `x-request-id` if it is well-formed, otherwise a new one."""
    for key, value in metadata:
        if key == "x-request-id" and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    # It is no secret. Asking the kernel for random bits, as `uuid4` does, would release the interpreter.
    return f"{random.getrandbits(128):032x}"


def deadline_of(context: grpc.ServicerContext) -> float | None:
    """Returns the deadline on `time.monotonic`'s scale; None if the caller set none."""
    remaining = context.time_remaining()
    # Without a deadline grpcio returns centuries, which overflow in waits.
    return None if remaining is None or remaining > _LONGEST_S else time.monotonic() + remaining
