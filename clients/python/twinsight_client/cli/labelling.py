"""What pictures show, written to the items that `twinsight index` made of them.

1. Each picture's item is looked for: under the picture's path in the folder that was named, and else under its path in
   every folder above it, since a part of a library may be named, or a file. That an item is of this very file its
   fields tell; one that others wrote, which has no such fields, goes by its id.
2. The item's fields are read, its label is changed among them, and they are written with the vector that it has. Of two
   that do so at the same time the later wins. What is so already is not written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twinsight_client.cli.batches import cut
from twinsight_client.cli.indexing import Skipped
from twinsight_client.cli.pictures import Picture
from twinsight_client.client import Client
from twinsight_client.errors import NotFound
from twinsight_client.items import KEEP_VECTOR, NewItem, item_size_bytes
from twinsight_client.results import Item, ItemError, Label, MetadataValue

CHUNK = 500
"""Ids or items in one call, which takes 1000."""
FIELDS_OF_FILES = frozenset(Picture(Path(), "", 0, 0).metadata())
"""By which `index` knows which files it has."""


@dataclass(frozen=True)
class Shown:
    """What a picture shows.

    Attributes:
        file: its path, as a person is told of it.
        folder: the folder that was named, under which it was found; None of a file that was named itself.
        labels: the most probable first; may be empty.
    """

    file: Path
    folder: Path | None
    labels: Sequence[Label]

    @property
    def path(self) -> Path:
        """Where it is, as `index` has it: the folder's links are followed, its own is not."""
        folder = self.file.parent if self.folder is None else self.folder
        return folder.resolve() / self.file.relative_to(folder)


@dataclass
class LabelReport:
    """What was written.

    Attributes:
        collection: the collection's id.
        written: items that were changed.
        unchanged: items that had just that label.
        kept: items that have a label without a probability, which somebody gave them.
        no_label: pictures without a label, whose items have none now.
        no_item: pictures of which there is no item.
        skipped: items that could not be written.
    """

    collection: str
    written: int = 0
    unchanged: int = 0
    kept: int = 0
    no_label: int = 0
    no_item: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


class Labeller:
    """Writes the best label of pictures, and its probability, to their items.

    Args:
        client: the server's.
        collection: id of the collection.
        prefix: what `index` put before each id.
        label_field: name of the field for the label.
        probability_field: name of the field for its probability.
        replace: write also where an item has a label without a probability, which no run gave it.

    Attributes:
        report: what was done so far.
    """

    def __init__(
        self,
        client: Client,
        collection: str,
        *,
        prefix: str,
        label_field: str,
        probability_field: str,
        replace: bool = False,
    ) -> None:
        self._client = client
        self._collection = collection
        self._prefix = prefix
        self._label_field = label_field
        self._probability_field = probability_field
        self._replace = replace
        self.report = LabelReport(collection)

    def write(self, pictures: Sequence[Shown]) -> None:
        """Writes the labels of some pictures; they are on the server's disk when this returns.

        Raises:
            TwinsightClientError: the server refused or can't be reached.
        """
        found = self._found(pictures)
        changed: dict[str, NewItem] = {}
        files: dict[str, Path] = {}
        for picture, item in zip(pictures, found, strict=True):
            self.report.no_label += not picture.labels
            if item is None:
                self.report.no_item.append(str(picture.file))
                continue
            if self._is_given(item.metadata):
                self.report.kept += 1
                continue
            metadata = self._labelled(item.metadata, picture.labels)
            if metadata == item.metadata:
                self.report.unchanged += 1
            else:
                changed[item.id], files[item.id] = NewItem(item.id, KEEP_VECTOR, metadata), picture.file
        for batch in cut(changed.values(), size_of=item_size_bytes, most=CHUNK):
            answers = self._client.upsert(self._collection, batch)
            for new, answer in zip(batch, answers, strict=True):
                if not isinstance(answer, ItemError):
                    self.report.written += 1
                elif answer.code == NotFound.code:  # deleted since it was read
                    self.report.no_item.append(str(files[new.id]))
                else:
                    self.report.skipped.append(Skipped(new.id, answer.reason or answer.code, answer.message))

    def _is_given(self, metadata: Mapping[str, MetadataValue]) -> bool:
        """Whether somebody gave the item its label, which stays: no run leaves one without its probability."""
        return not self._replace and self._label_field in metadata and self._probability_field not in metadata

    def _labelled(self, metadata: Mapping[str, MetadataValue], labels: Sequence[Label]) -> dict[str, MetadataValue]:
        """An item's fields with the best label; without one where there is none, also not that of an earlier run."""
        own = (self._label_field, self._probability_field)
        labelled = {name: value for name, value in metadata.items() if name not in own}
        if labels:
            labelled |= {self._label_field: labels[0].label, self._probability_field: labels[0].probability}
        return labelled

    def _found(self, pictures: Sequence[Shown]) -> list[Item | None]:
        """Returns each picture's item; None where there is none."""
        own = [self._own_id(one) for one in pictures]
        stored = self._stored(one for one in own if one is not None)
        found = [self._item_of(one, [item_id], stored) for one, item_id in zip(pictures, own, strict=True)]
        # Asked for only where need be: most are found at once.
        others = {place: self._ids(pictures[place].path) for place, item in enumerate(found) if item is None}
        stored = self._stored(item_id for ids in others.values() for item_id in ids)
        for place, ids in others.items():
            found[place] = self._item_of(pictures[place], ids, stored)
        return found

    def _own_id(self, picture: Shown) -> str | None:
        """The id that `index` gives to a picture of the folder that was named."""
        folder = picture.folder
        return None if folder is None else self._prefix + picture.file.relative_to(folder).as_posix()

    def _ids(self, path: Path) -> list[str]:
        """The ids that `index` may have given, by which folder it was told to index."""
        parts = path.parts[1:]
        return [self._prefix + "/".join(parts[start:]) for start in range(len(parts))]

    def _stored(self, ids: Iterable[str]) -> dict[str, Item]:
        """Returns those of the items that there are, by id."""
        asked = [one for one in dict.fromkeys(ids) if _is_text(one)]
        stored: dict[str, Item] = {}
        for start in range(0, len(asked), CHUNK):
            for item in self._client.get_items(self._collection, asked[start : start + CHUNK]).successes():
                stored[item.id] = item
        return stored

    def _item_of(self, picture: Shown, ids: Sequence[str | None], stored: Mapping[str, Item]) -> Item | None:
        items = (stored[one] for one in ids if one is not None and one in stored)
        return next((item for item in items if self._is_of(item, picture)), None)

    def _is_of(self, item: Item, picture: Shown) -> bool:
        root, file = item.metadata.get("root"), item.metadata.get("file")
        if not isinstance(root, str) or not isinstance(file, str):
            return item.id == self._own_id(picture)
        path = picture.path
        try:
            state = path.stat()
        except OSError:
            return False
        here = Picture(path.parent, path.name, state.st_size, state.st_mtime_ns)
        return item.id == self._prefix + file and not here.is_another(item.metadata)


def _is_text(item_id: str) -> bool:
    """Whether an item can have that id: `index` skips a file whose name is not valid UTF-8."""
    try:
        item_id.encode()
    except UnicodeEncodeError:
        return False
    return True
