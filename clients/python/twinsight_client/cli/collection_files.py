"""A collection as a file of JSON Lines, which any server can import.

The first line describes the collection and says how many items follow, so that a truncated file is recognised. Each
further line is one item, in protobuf's JSON form of `twinsight.v1.Item`: the vector is base64 of its little-endian
float32, and a field's value names its kind (`{"integerValue": "7"}`), so that nothing is lost.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from twinsight_client.errors import InvalidArgument
from twinsight_client.images import vector_array, vector_bytes
from twinsight_client.items import NewItem, item_message
from twinsight_client.results import CollectionInfo, Item, MetadataValue, Metric, Vector

FORMAT = "twinsight.collection"
VERSION = 1
_COUNT_DIGITS = 19
"""Digits of any 64-bit number: the first line is finally overwritten by one with the count."""
_MAX_LINE_BYTES = 4 * 1024 * 1024
"""Several times the size of the largest item, so that no other kind of file is read into memory."""


@dataclass(frozen=True)
class Header:
    """The first line of the file.

    Attributes:
        collection: id of the exported collection.
        model: name of its model there; empty: it was bound to none.
        model_digest: digest of that model.
        metric: how distance is measured.
        dimension: components of each vector.
        item_count: items in the file.
    """

    collection: str
    model: str
    model_digest: str
    metric: Metric
    dimension: int
    item_count: int = 0


def header_of(info: CollectionInfo) -> Header:
    """Returns the header of a collection's file, without the item count."""
    return Header(info.id, info.model, info.model_digest, info.metric, info.dimension)


def write_items(file: BinaryIO, header: Header, items: Iterable[Item]) -> int:
    """Writes a collection's file; returns the number of items."""
    file.write(_header_line(header, 0))
    count = 0
    for count, item in enumerate(items, 1):  # noqa: B007  # the last is returned
        file.write(_item_line(item))
    file.seek(0)
    file.write(_header_line(header, count))
    return count


def new_item(item: Item) -> NewItem:
    """Returns the item to write for one that was read with its vector."""
    return NewItem(item.id, _vector(item), item.metadata)


class CollectionFile:
    """A collection's file, read once and checked.

    Args:
        file: at its start, and seekable.
        name: for errors.

    Attributes:
        header: its description of the collection.
        repeated: ids that occur on more than one line; the last line counts.

    Raises:
        InvalidArgument: it is not such a file, of a later version, damaged or truncated; names the line.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.header = self._header()
        self.repeated = self._check()

    def items(self) -> Iterator[Item]:
        """Yields all items, in the file's order."""
        self._file.seek(0)
        for number, line in enumerate(self._lines(), 1):
            if number > 1:
                yield self._item(line, number)

    def _lines(self) -> Iterator[bytes]:
        return iter(lambda: self._file.readline(_MAX_LINE_BYTES), b"")

    def _header(self) -> Header:
        try:
            said = json.loads(next(self._lines(), b""))
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict) or said.get("format") != FORMAT:
            message = f"{self._name} was not written by `twinsight collections export`: its first line is no header."
            raise InvalidArgument(message, reason="FILE_DAMAGED")
        try:
            version = int(said["format_version"])
            if version > VERSION:
                message = f"{self._name} has format version {version}; this release reads up to {VERSION}."
                raise InvalidArgument(message, reason="FILE_TOO_NEW")
            return Header(
                collection=str(said["collection"]),
                model=str(said["model"]),
                model_digest=str(said["model_digest"]),
                metric=Metric(said["metric"]),
                dimension=int(said["dimension"]),
                item_count=int(said["item_count"]),
            )
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise self._damaged(1, "the description of the collection is incomplete or wrong.") from error

    def _check(self) -> frozenset[str]:
        seen: set[str] = set()
        repeated: set[str] = set()
        count = 0
        for count, line in enumerate(self._lines(), 1):
            item = self._item(line, count + 1)
            (repeated if item.id in seen else seen).add(item.id)
        if count != self.header.item_count:
            message = (
                f"{self._name} has {count} items, but its first line says {self.header.item_count}: "
                "it was truncated or changed."
            )
            raise InvalidArgument(message, reason="FILE_DAMAGED")
        return frozenset(repeated)

    def _item(self, line: bytes, number: int) -> Item:
        try:
            item = _item(line, self.header.dimension)
            item_message(new_item(item))  # rejects what no message can hold
        except InvalidArgument as error:
            raise self._damaged(number, error.message) from error
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            raise self._damaged(number, f"{error}.") from error
        return item

    def _damaged(self, number: int, what: str) -> InvalidArgument:
        return InvalidArgument(f"{self._name}, line {number}: {what}", reason="FILE_DAMAGED")


def _header_line(header: Header, count: int) -> bytes:
    said = {
        "format": FORMAT,
        "format_version": VERSION,
        "collection": header.collection,
        "model": header.model,
        "model_digest": header.model_digest,
        "metric": header.metric.value,
        "dimension": header.dimension,
    }
    return f'{json.dumps(said)[:-1]}, "item_count": {count:{_COUNT_DIGITS}}}}\n'.encode()


def _vector(item: Item) -> Vector:
    if item.vector is None:
        raise ValueError(f"Item `{item.id}` was read without its vector.")
    return item.vector


def _item_line(item: Item) -> bytes:
    said = {
        "id": item.id,
        "vector": base64.b64encode(vector_bytes(_vector(item))).decode(),
        "metadata": {name: _value_json(value) for name, value in item.metadata.items()},
    }
    return (json.dumps(said, ensure_ascii=False) + "\n").encode()


def _value_json(value: MetadataValue) -> dict[str, object]:
    match value:
        case bool():  # before int, its base class
            return {"boolValue": value}
        case int():
            return {"integerValue": str(value)}
        case float():
            return {"floatValue": value}
        case str():
            return {"stringValue": value}
    return {"stringList": {"values": list(value)}}


def _item(line: bytes, dimension: int) -> Item:
    said = json.loads(line)
    if not isinstance(said, dict):
        raise TypeError("an item must be a JSON object")
    name, encoded, fields = said.get("id"), said.get("vector"), said.get("metadata", {})
    if not isinstance(name, str) or not isinstance(encoded, str) or not isinstance(fields, dict):
        raise TypeError("an item must have an `id`, a `vector` in base64 and `metadata`")
    vector = base64.b64decode(encoded, validate=True)
    if len(vector) != 4 * dimension:
        raise ValueError(f"`vector` has {len(vector)} bytes, not 4 x {dimension}")
    return Item(name, {one: _value(value, one) for one, value in fields.items()}, vector_array(vector))


def _value(said: object, name: str) -> MetadataValue:
    match said:
        case {"boolValue": bool(flag)}:
            return flag
        case {"integerValue": str() | int() as number}:
            return int(number)
        case {"floatValue": float() | int() as number}:
            return float(number)
        case {"stringValue": str(text)}:
            return text
        case {"stringList": {**texts}}:
            return _texts(texts.get("values", []), name)
    raise ValueError(f"metadata `{name}` has a value of an unknown kind")


def _texts(values: object, name: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise ValueError(f"metadata `{name}` must be a list of strings")
    return tuple(values)
