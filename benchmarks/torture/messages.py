"""Hostile messages: requests made from the descriptors of the services, each a function of its seed.

A field of every kind gets values that are usual, at an edge or forbidden; fields that name something mostly name what
exists, so that calls get past the first check. Of the messages a third is damaged once more as bytes on the wire.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import EncodeError, Message
from google.protobuf.message_factory import GetMessageClass

from benchmarks.torture.pictures import hostile_picture
from twinsight.v1 import collection_service_pb2, inference_service_pb2, model_service_pb2

METHODS: tuple[MethodDescriptor, ...] = tuple(
    method
    for file in (inference_service_pb2, collection_service_pb2, model_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)

_DEEPEST = 40
_TEXTS = (
    "",
    "small",
    "base",
    "a",
    "../../etc/passwd",
    "..",
    ".new-x",
    "/etc/x",
    "a/b",
    "nul\0byte",
    "line\nbreak\x1b[31m",
    "\ud7ff\ue000\U0010ffff",
    "é" * 200,
    "x" * 70_000,
    "%s%n{0}",
    "'; DROP TABLE items; --",
    "0",
    "9" * 30,
)
_INTEGERS = (0, 1, 2, 3, 5, 100, 1000, 4096, 4097, 2**31 - 1, -1, -(2**31))
_LONGS = (*_INTEGERS, 2**63 - 1, -(2**63))
_FLOATS = (0.0, 0.5, 1.0, -1.0, 1e30, 1e-40, float("nan"), float("inf"), float("-inf"))


def _content(rng: random.Random) -> bytes:
    """Returns what a field of bytes holds: a vector of three components, a picture, or neither."""
    match rng.randrange(6):
        case 0:
            return b""
        case 1:
            return rng.randbytes(rng.choice((1, 3, 11, 12, 13, 1024)))
        case 2:
            return b"\0\0\xc0\x7f" * 3  # NaN
        case 3:
            return bytes(12)
        case 4:
            return b"\0\0\x80\x3f" * 3  # 1
    return hostile_picture(rng.randrange(50))[:100_000]


_CHOICES: dict[int, Callable[[random.Random], object]] = {
    FieldDescriptor.TYPE_STRING: lambda rng: rng.choice(_TEXTS),
    FieldDescriptor.TYPE_BYTES: _content,
    FieldDescriptor.TYPE_BOOL: lambda rng: rng.random() < 0.5,
    FieldDescriptor.TYPE_INT32: lambda rng: rng.choice(_INTEGERS),
    FieldDescriptor.TYPE_INT64: lambda rng: rng.choice(_LONGS),
    FieldDescriptor.TYPE_FLOAT: lambda rng: rng.choice(_FLOATS),
    FieldDescriptor.TYPE_DOUBLE: lambda rng: rng.choice(_FLOATS),
    FieldDescriptor.TYPE_ENUM: lambda rng: rng.choice((0, 1, 2, 3, 99, -1)),
}


class HostileCall(NamedTuple):
    """A call: its method, and the bytes of its request."""

    method: MethodDescriptor
    request: bytes


def hostile_call(seed: int) -> HostileCall:
    """Returns the call of a seed."""
    rng = random.Random(seed)
    method = rng.choice(METHODS)
    message = _message(method.input_type, rng, depth=0)
    try:
        request = message.SerializeToString()
    except EncodeError:  # nested deeper than protobuf writes
        request = b""
    if rng.random() < 1 / 3:
        request = _damaged(request, rng)
    return HostileCall(method, request)


def _message(descriptor: Descriptor, rng: random.Random, *, depth: int) -> Message:
    made = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        # Ever fewer, so that messages end; now and then filters go as deep as they may, and deeper.
        if rng.random() > max(0.05, 0.8 - 0.1 * depth) or depth > _DEEPEST:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _fill_map(made, field, rng, depth)
        elif field.is_repeated:
            for _ in range(rng.choice((0, 1, 1, 2, 3, 300 if depth < 1 else 4))):
                if field.message_type is None:
                    getattr(made, field.name).append(_CHOICES[field.type](rng))
                else:
                    getattr(made, field.name).add().CopyFrom(_message(field.message_type, rng, depth=depth + 2))
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(_message(field.message_type, rng, depth=depth + 1))
        elif field.name == "collection":
            setattr(made, field.name, rng.choice(("small", "small", "small", rng.choice(_TEXTS))))
        else:
            setattr(made, field.name, _CHOICES[field.type](rng))
    return made


def _fill_map(made: Message, field: FieldDescriptor, rng: random.Random, depth: int) -> None:
    value = getattr(made, field.name).GetEntryClass().DESCRIPTOR.fields_by_name["value"].message_type
    for number in range(rng.choice((0, 1, 2, 65))):
        entry = getattr(made, field.name)[rng.choice(_TEXTS) if number < 2 else str(number)]
        entry.CopyFrom(_message(value, rng, depth=depth + 2))


def _damaged(request: bytes, rng: random.Random) -> bytes:
    """Changes bytes on the wire: lengths, tags, UTF-8."""
    if not request:
        return rng.randbytes(20)
    data = bytearray(request)
    for _ in range(rng.choice((1, 1, 3, 10))):
        place = rng.randrange(len(data))
        data[place] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    if rng.random() < 0.1:
        data += b"\x0b" * rng.choice((10, 200, 5000))  # groups that never end
    return bytes(data)
