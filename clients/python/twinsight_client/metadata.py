"""Metadata values to messages and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from twinsight.v1 import types_pb2
from twinsight_client.errors import FieldViolation, InvalidArgument
from twinsight_client.results import MetadataValue
from twinsight_client.unicode_text import check_text

_PER_FIELD, _PER_ENTRY = 12, 4
"""Approximate bytes of tags and lengths."""


def value_message(value: MetadataValue, *, name: str = "", field: str = "") -> types_pb2.Value:
    """Returns the message of one value, which may be a NumPy scalar; `name` is the metadata field's, for errors.

    Args:
        value: the value.
        name: the metadata field's name.
        field: path of the value in the request, for errors; empty: that of an item's metadata.

    Raises:
        InvalidArgument: a type that metadata can't hold, an integer of more than 64 bits, or a name that is no str.
        NotUnicode: the name, or a text.
    """
    if not isinstance(name, str):
        raise _invalid(str(name), f"A name in metadata must be a str, not {type(name).__name__}: {name!r}.")
    field = field or f"metadata[{name!r}]"
    check_text(name, field=field)
    match plain_scalar(value):
        case bool(flag):  # before int, its base class
            return types_pb2.Value(bool_value=flag)
        case int(number):
            if not -(2**63) <= number < 2**63:
                raise _invalid(name, f"Metadata `{name}` ({number}) must fit a signed 64-bit integer.")
            return types_pb2.Value(integer_value=number)
        case float(number):
            return types_pb2.Value(float_value=number)
        case str(text):
            return types_pb2.Value(string_value=check_text(text, field=field))
        case Sequence() as texts if not isinstance(texts, bytes) and all(isinstance(one, str) for one in texts):
            checked = [check_text(one, field=field) for one in texts]
            return types_pb2.Value(string_list=types_pb2.StringList(values=checked))
    raise _invalid(name, f"Metadata `{name}` must be str, int, float, bool or a list of str, not {_kind(value)}.")


def plain_scalar(value: object) -> object:
    """Returns the Python value of a NumPy scalar; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def metadata_messages(metadata: Mapping[str, MetadataValue]) -> dict[str, types_pb2.Value]:
    """Returns the messages of all fields.

    Raises:
        InvalidArgument: as for `value_message`.
    """
    return {name: value_message(value, name=name) for name, value in metadata.items()}


def metadata_size_bytes(metadata: Mapping[str, MetadataValue]) -> int:
    """Returns about how many bytes fields take in a message, without building one."""
    return sum(_PER_FIELD + _text_bytes(name) + _value_bytes(value) for name, value in metadata.items())


def _value_bytes(value: MetadataValue) -> int:
    if isinstance(value, str):
        return _text_bytes(value)
    if isinstance(value, Sequence):
        return sum(_PER_ENTRY + _text_bytes(one) for one in value if isinstance(one, str))
    return 8


def _text_bytes(text: str) -> int:
    if not isinstance(text, str):
        return 0  # a name, which is rejected when the message is built
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def metadata_values(messages: Mapping[str, types_pb2.Value]) -> dict[str, MetadataValue]:
    """Returns the fields of an item, ordered by name; kinds of values that this client does not know are left out."""
    values: dict[str, MetadataValue] = {}
    if not messages:  # as in each match of a search without metadata
        return values
    for name in sorted(messages):
        value = metadata_value(messages[name])
        if value is not None:
            values[name] = value
    return values


def metadata_value(message: types_pb2.Value) -> MetadataValue | None:
    """Returns one value, or None if it is of no kind that this client knows."""
    match message.WhichOneof("kind"):
        case "string_value":
            return message.string_value
        case "integer_value":
            return message.integer_value
        case "float_value":
            return message.float_value
        case "bool_value":
            return message.bool_value
        case "string_list":
            return tuple(message.string_list.values)
    return None


def _kind(value: object) -> str:
    kinds = sorted({type(one).__name__ for one in value if not isinstance(one, str)}) if isinstance(value, list) else []
    return f"a list of {', '.join(kinds)}" if kinds else type(value).__name__


def _invalid(name: str, message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="CLIENT_CHECK", violations=[FieldViolation(f"metadata[{name!r}]", message)])
