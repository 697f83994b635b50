"""Hostile messages: requests made from the descriptors of the services, each a function of its seed.

A field of every kind gets values that are usual, at an edge or forbidden; fields that name something mostly name what
exists, so that calls get past the first check. Filters are nested up to and beyond what protobuf reads. Of the messages
a third is damaged once more as bytes on the wire; one in five comes with strange or huge metadata.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.message import EncodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from benchmarks.torture.pictures import hostile_picture
from twinsight.v1 import collection_service_pb2, inference_service_pb2, model_service_pb2

_FILES: tuple[FileDescriptor, ...] = tuple(
    file.DESCRIPTOR
    for file in (inference_service_pb2, collection_service_pb2, model_service_pb2, health_pb2, reflection_pb2)
)
METHODS: tuple[MethodDescriptor, ...] = tuple(
    method
    for file in _FILES
    for service in file.services_by_name.values()
    for method in service.methods
    # Of health, Watch goes on for ever, and gRPC's servicer leaves List out.
    if method.full_name not in {"grpc.health.v1.Health.Watch", "grpc.health.v1.Health.List"}
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


_DEPTHS = (5, 9, 16, 31, 32, 33, 64, 98, 99, 100, 101, 500, 3000)
"""Of filters: protobuf reads a hundred messages within one another."""

Metadata = tuple[tuple[str, str | bytes], ...]


class HostileCall(NamedTuple):
    """A call: its method, the bytes of its request, and gRPC's metadata."""

    method: MethodDescriptor
    request: bytes
    metadata: Metadata = ()


def hostile_call(seed: int) -> HostileCall:
    """Returns the call of a seed."""
    rng = random.Random(seed)
    method = rng.choice(METHODS)
    message = _message(method.input_type, rng, depth=0)
    try:
        request = message.SerializeToString()
    except EncodeError:  # nested deeper than protobuf writes
        request = b""
    if (field := method.input_type.fields_by_name.get("filter")) is not None and rng.random() < 0.2:
        request += _deep(field.number, rng)
    if rng.random() < 1 / 3:
        request = _damaged(request, rng)
    return HostileCall(method, request, _metadata(rng) if rng.random() < 0.2 else ())


def _metadata(rng: random.Random) -> Metadata:
    """Returns what HTTP/2 can carry; some of it is more than gRPC takes."""
    text = rng.choice(("", " ", "%00%0a", "../../etc/passwd", "Bearer", "x" * 200, "~" * 7000, "9" * 20_000))
    match rng.randrange(4):
        case 0:
            return (("x-request-id", text),)
        case 1:
            return (("authorization", f"Bearer {text}"), ("authorization", text))
        case 2:
            return (("x-strange-bin", rng.randbytes(rng.choice((0, 1, 5000)))),)
    return tuple((f"x-{number}", text[:40]) for number in range(rng.choice((1, 100))))


def _deep(number: int, rng: random.Random) -> bytes:
    """Returns a field of filters within one another, as bytes on the wire: deeper ones can't be written otherwise."""
    inner = b""
    for _ in range(rng.choice(_DEPTHS)):
        # `not` of a filter, or a list of one.
        inner = _field(3, inner) if rng.random() < 0.5 else _field(rng.choice((1, 2)), _field(1, inner))
    return _field(number, inner)


def _field(number: int, content: bytes) -> bytes:
    head, left = bytes([number << 3 | 2]), len(content)
    while left > 0x7F:
        head += bytes([left & 0x7F | 0x80])
        left >>= 7
    return head + bytes([left]) + content


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
