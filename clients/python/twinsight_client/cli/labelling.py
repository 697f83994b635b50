"""Writes labels of pictures to the items that `twinsight index` created from them.

1. Each picture's item is looked up under the picture's path in the folder that was named, else under its path in every
   folder above it, since the user may name a part of a library, or a file. The item's fields say whether it is of this
   same file; an item that others wrote, without these fields, is recognised by its id.
2. The item's fields are read, the label among them is changed, and they are written back; the item keeps its vector. Of
   two concurrent changes, the later wins. Items that already have the label are not written.
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
from twinsight_client.unicode_text import is_unicode

CHUNK = 500
"""Ids or items per call; the server accepts 1000."""
FIELDS_OF_FILES = frozenset(Picture(Path(), "", 0, 0).metadata())
"""The fields by which `index` recognises the files it has."""


@dataclass(frozen=True)
class Shown:
    """The labels of a picture.

    Attributes:
        file: its path, as printed.
        folder: the named folder under which it was found; None for a file that was named itself.
        labels: most probable first; may be empty.
    """

    file: Path
    folder: Path | None
    labels: Sequence[Label]

    @property
    def path(self) -> Path:
        """Its path as `index` records it: links in the folder's path are resolved, the file's own is not."""
        folder = self.file.parent if self.folder is None else self.folder
        return folder.resolve() / self.file.relative_to(folder)


@dataclass
class LabelReport:
    """Results of the labelling.

    Attributes:
        collection: the collection's id.
        written: items that were changed.
        unchanged: items that already had the same label.
        kept: items with a label but no probability, which somebody set.
        no_label: pictures without a label; their items have none now.
        no_item: pictures without an item.
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
        client: client of the server.
        collection: id of the collection.
        prefix: what `index` put before each id.
        label_field: name of the field for the label.
        probability_field: name of the field for its probability.
        replace: also overwrite labels without a probability, which no run wrote.

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
        """Writes the labels of some pictures; returns when they are on the server's disk.

        Raises:
            TwinsightClientError: the server rejected a call or can't be reached.
        """
        found = self._find(pictures)
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
            metadata = self._with_label(item.metadata, picture.labels)
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
        """Whether somebody set the item's label, which is kept: a run always writes a probability, too."""
        return not self._replace and self._label_field in metadata and self._probability_field not in metadata

    def _with_label(self, metadata: Mapping[str, MetadataValue], labels: Sequence[Label]) -> dict[str, MetadataValue]:
        """Returns an item's fields with the best label; if there is none, also without that of an earlier run."""
        own = (self._label_field, self._probability_field)
        labelled = {name: value for name, value in metadata.items() if name not in own}
        if labels:
            labelled |= {self._label_field: labels[0].label, self._probability_field: labels[0].probability}
        return labelled

    def _find(self, pictures: Sequence[Shown]) -> list[Item | None]:
        """Returns each picture's item; None if there is none."""
        own = [self._own_id(one) for one in pictures]
        stored = self._stored(one for one in own if one is not None)
        found = [self._item_of(one, [item_id], stored) for one, item_id in zip(pictures, own, strict=True)]
        # Only for those not found yet: most are found at once.
        others = {place: self._ids(pictures[place].path) for place, item in enumerate(found) if item is None}
        stored = self._stored(item_id for ids in others.values() for item_id in ids)
        for place, ids in others.items():
            found[place] = self._item_of(pictures[place], ids, stored)
        return found

    def _own_id(self, picture: Shown) -> str | None:
        """Returns the id that `index` gives to a picture of the named folder."""
        folder = picture.folder
        return None if folder is None else self._prefix + picture.file.relative_to(folder).as_posix()

    def _ids(self, path: Path) -> list[str]:
        """Returns the ids that `index` may have given, depending on the folder it indexed."""
        parts = path.parts[1:]
        return [self._prefix + "/".join(parts[start:]) for start in range(len(parts))]

    def _stored(self, ids: Iterable[str]) -> dict[str, Item]:
        """Returns the items that exist, by id."""
        asked = [one for one in dict.fromkeys(ids) if is_unicode(one)]  # `index` skips such a file
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
