"""Typed metadata of items: its rules, and its form on disk."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping

from twinsight_core.errors import InvalidInput

MetadataValue = str | int | float | bool | tuple[str, ...]
Metadata = Mapping[str, MetadataValue]

MAX_FIELDS = 64
MAX_NAME_BYTES = 128
MAX_BYTES = 64 << 10
MAX_ENCODED_BYTES = 6 * MAX_BYTES + 8 * MAX_FIELDS
"""On disk, where a control character takes six bytes, and a field a few more than its name and value."""
_BYTES_OF_ENTRY = 8  # of a list, besides its text: millions of empty strings would otherwise count nothing
INTEGER_RANGE = range(-(2**63), 2**63)

_DECODER = json.JSONDecoder()


def check_metadata(metadata: Metadata, *, field: str) -> None:
    """Checks the rules of metadata.

    Args:
        metadata: the fields.
        field: path of the metadata as the caller wrote it, for the error.

    Raises:
        InvalidInput: too many fields, a name or value that breaks a rule, or too many bytes in total.
    """
    if len(metadata) > MAX_FIELDS:
        raise InvalidInput(
            f"`{field}` has {len(metadata)} fields; at most {MAX_FIELDS} are allowed.",
            reason="METADATA_INVALID",
            field=field,
        )
    total = 0
    for name, value in metadata.items():
        total += check_text(name, field=field, what="field name", max_bytes=MAX_NAME_BYTES, reason="METADATA_INVALID")
        total += check_value(value, field=f"{field}[{name!r}]", reason="METADATA_INVALID")
    if total > MAX_BYTES:
        raise InvalidInput(
            f"`{field}` is {total} bytes of names and values; at most {MAX_BYTES} are allowed.",
            reason="METADATA_INVALID",
            field=field,
        )


def check_text(text: str, *, field: str, what: str, max_bytes: int, reason: str) -> int:
    """Checks a name: 1 to `max_bytes` bytes of UTF-8 without control characters. Returns its bytes.

    Raises:
        InvalidInput: it is not such a name.
    """
    size = _utf8_size(text, field=field, reason=reason)
    if not 1 <= size <= max_bytes:
        raise InvalidInput(
            f"{what} (of {size} bytes) must be 1 to {max_bytes} bytes of UTF-8.", reason=reason, field=field
        )
    # Printable text, which nearly all text is, has no control characters and takes one call to recognise.
    if not text.isprintable() and any(unicodedata.category(one) == "Cc" for one in text):
        raise InvalidInput(f"{what} ({text!r}) must not have control characters.", reason=reason, field=field)
    return size


def check_value(value: MetadataValue, *, field: str, reason: str) -> int:
    """Checks one value and returns its size: UTF-8 bytes of text, 8 more per list entry, 8 for a number, 1 for a bool.

    Raises:
        InvalidInput: an integer beyond 64 bits, a float that is not finite, or text that is not Unicode.
    """
    if isinstance(value, bool):
        return 1
    if isinstance(value, str):
        return _utf8_size(value, field=field, reason=reason)
    if isinstance(value, int):
        if value not in INTEGER_RANGE:
            raise InvalidInput(f"`{field}` (={value}) must fit in 64 bits.", reason=reason, field=field)
        return 8
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"`{field}` (={value}) must be finite.", reason=reason, field=field)
        return 8
    if isinstance(value, tuple) and all(isinstance(one, str) for one in value):
        return sum(_BYTES_OF_ENTRY + _utf8_size(one, field=field, reason=reason) for one in value)
    raise InvalidInput(
        f"`{field}` must be a string, an integer, a float, a bool or a tuple of strings.", reason=reason, field=field
    )


def encode_metadata(metadata: Metadata) -> bytes:
    """Returns metadata as stored on disk: JSON in which floats, unlike integers, have a point or an exponent."""
    if not metadata:
        return b"{}"
    return json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def decode_metadata(encoded: bytes) -> dict[str, MetadataValue]:
    """Returns the metadata that `encode_metadata` wrote."""
    if encoded == b"{}":
        return {}
    # Not `json.loads`: opening a large collection decodes once for each item, and half of that guesses the encoding.
    decoded: dict[str, str | int | float | bool | list[str]] = _DECODER.decode(encoded.decode())
    return {name: tuple(value) if isinstance(value, list) else value for name, value in decoded.items()}


def _utf8_size(text: str, *, field: str, reason: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"`{field}` must be valid UTF-8.", reason=reason, field=field) from None
