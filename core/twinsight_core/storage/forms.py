"""The form of contents on disk: plain, or sealed. Only this module distinguishes the two.

A store has one form for its whole life: `rekeying` changes it by rewriting the store.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from twinsight_core.errors import DataLoss, FailedPrecondition
from twinsight_core.host.memory_files import memory_file, memory_has_room
from twinsight_core.sealing.cipher import Cipher
from twinsight_core.sealing.files import opened_file, sealed_file
from twinsight_core.sealing.keyring import Keyring
from twinsight_core.storage.layout import Head, Seal, checksum, is_sound
from twinsight_core.storage.records import StoredItem
from twinsight_core.storage.sqlite import damaged

Row = tuple[int | str | bytes, ...]


class Form(Protocol):
    """Converts contents to what is on disk, and back."""

    def names(self, ids: Sequence[str]) -> list[str]:
        """Returns the keys of the rows of items, or of bulk writes."""
        ...

    def row(self, item: StoredItem) -> Row:
        """Returns an item's row."""
        ...

    def item(self, row: Sequence[object]) -> StoredItem | None:
        """Returns the item of a row; None if the row is not what was written there."""
        ...

    def ingest_row(self, ingest: str, batch: int) -> Row:
        """Returns the row that says how far a bulk write got."""
        ...

    def ingest(self, row: Sequence[object]) -> tuple[str, int] | None:
        """Returns a bulk write and its last batch; None if the row is not what was written there."""
        ...

    def writing(self, file: Path, place: bytes, size: int) -> AbstractContextManager[Path]:
        """Yields the path to write a new file's content to; the file has it, in this form, when the block ends.

        Args:
            file: the file to make.
            place: what the content belongs to; it can be read only with the same.
            size: of the content, in bytes.

        Raises:
            OSError: the file can't be written.
        """
        ...

    def reading(self, file: Path, place: bytes) -> AbstractContextManager[Path]:
        """Yields a path at which a file's content can be read.

        Raises:
            DataLoss: the file is not what was written for this place.
        """
        ...

    def beside(self, content: bytes, place: bytes) -> bytes:
        """Returns what goes on record beside a file, as it is stored."""
        ...

    def read_beside(self, stored: bytes, place: bytes) -> bytes:
        """Returns the content of what is on record beside a file.

        Raises:
            DataLoss: it is not what was put on record for this place.
        """
        ...


class PlainForm:
    """Contents as they are."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def names(self, ids: Sequence[str]) -> list[str]:
        """Returns the ids."""
        return list(ids)

    def row(self, item: StoredItem) -> Row:
        """Returns an item's row."""
        return (*item, checksum(*item))

    def item(self, row: Sequence[object]) -> StoredItem | None:
        """Returns the item of a row; None if the row is not what was written there."""
        if not is_sound(row, self._head):
            return None
        match row:
            case (int(seq), str(name), bytes(vector), bytes(metadata), _):
                return StoredItem(seq, name, vector, metadata)
            case _:
                return None

    def ingest_row(self, ingest: str, batch: int) -> Row:
        """Returns the row that says how far a bulk write got."""
        return (ingest, batch)

    def ingest(self, row: Sequence[object]) -> tuple[str, int] | None:
        """Returns a bulk write and its last batch; None if the row is not what was written there."""
        match row:
            case (str(ingest), int(batch)):
                return ingest, batch
            case _:
                return None

    @contextmanager
    def writing(self, file: Path, place: bytes, size: int) -> Iterator[Path]:
        """Yields a path in memory, from which the content is copied to the file; without enough memory the file itself.

        The graph's library holds the interpreter lock while it writes, so all threads wait. Writing 314 MB took 1.17 s
        to disk and 0.18 s to memory.
        """
        del place
        if not memory_has_room(size):
            yield file
            return
        with memory_file() as (_, path):
            yield path
            shutil.copyfile(path, file)

    def reading(self, file: Path, place: bytes) -> AbstractContextManager[Path]:
        """Yields the file itself."""
        del place
        return nullcontext(file)

    def beside(self, content: bytes, place: bytes) -> bytes:
        """Returns the content."""
        del place
        return content

    def read_beside(self, stored: bytes, place: bytes) -> bytes:
        """Returns what is stored."""
        del place
        return stored


class SealedForm:
    """Contents that can be read only with the key, each bound to its place."""

    def __init__(self, cipher: Cipher, head: Head) -> None:
        self._cipher = cipher
        self._head = head

    def names(self, ids: Sequence[str]) -> list[str]:
        """Returns the pseudonyms of ids."""
        return [self._cipher.pseudonym(one) for one in ids]

    def row(self, item: StoredItem) -> Row:
        """Returns an item's row: id, vector and metadata are sealed as one, so that none can be swapped alone."""
        name = self._cipher.pseudonym(item.id)
        own = item.id.encode()
        content = b"".join((len(own).to_bytes(2, "little"), own, item.vector, item.metadata))
        sealed = self._cipher.sealed(content, _item_place(item.seq, name))
        return item.seq, name, sealed, checksum(item.seq, name, sealed)

    def item(self, row: Sequence[object]) -> StoredItem | None:
        """Returns the item of a row; None if the row is not what was written there."""
        if not is_sound(row, self._head):
            return None
        match row:
            case (int(seq), str(name), bytes(sealed), _):
                content = self._cipher.opened(sealed, _item_place(seq, name))
            case _:
                return None
        if content is None:
            return None
        start = 2 + int.from_bytes(content[:2], "little")
        end = start + 4 * self._head.spec.dimension
        return StoredItem(seq, content[2:start].decode(), content[start:end], content[end:])

    def ingest_row(self, ingest: str, batch: int) -> Row:
        """Returns the row that says how far a bulk write got."""
        name = self._cipher.pseudonym(ingest)
        return name, batch, self._cipher.sealed(ingest.encode(), _ingest_place(name, batch))

    def ingest(self, row: Sequence[object]) -> tuple[str, int] | None:
        """Returns a bulk write and its last batch; None if the row is not what was written there."""
        match row:
            case (str(name), int(batch), bytes(sealed)):
                ingest = self._cipher.opened(sealed, _ingest_place(name, batch))
                return None if ingest is None else (ingest.decode(), batch)
            case _:
                return None

    def writing(self, file: Path, place: bytes, size: int) -> AbstractContextManager[Path]:
        """Yields a path in memory; what was written there is sealed into the file when the block ends."""
        del size
        return sealed_file(file, self._cipher, b"file " + place)

    def reading(self, file: Path, place: bytes) -> AbstractContextManager[Path]:
        """Yields a path in memory with the file's content.

        Raises:
            DataLoss: the file is not what was written for this place.
        """
        return opened_file(file, self._cipher, b"file " + place)

    def beside(self, content: bytes, place: bytes) -> bytes:
        """Returns the content sealed."""
        return self._cipher.sealed(content, b"beside " + place)

    def read_beside(self, stored: bytes, place: bytes) -> bytes:
        """Returns the content.

        Plain content, as in early versions, is 8 bytes per number; sealed content has 28 more. Plain content is
        trusted, since the file beside it is read only together with it.

        Raises:
            DataLoss: it is not what was put on record for this place.
        """
        if len(stored) % 8 == 0:
            return stored
        content = self._cipher.opened(stored, b"beside " + place)
        if content is None:
            raise DataLoss("What is on record beside it is not what was sealed there.", reason="COLLECTION_DAMAGED")
        return content


def form_of(head: Head, keyring: Keyring | None, file: Path, *, allow_plain: bool) -> Form:
    """Returns the form of a file's contents.

    Args:
        head: the file's head.
        keyring: has the key of contents that are sealed.
        file: the file.
        allow_plain: whether they may lie plainly although there is a keyring.

    Raises:
        FailedPrecondition: they are sealed, and the key is not at hand; or they lie plainly, and may not.
        DataLoss: what it says of itself is not what was written.
    """
    if head.seal is None:
        if keyring is not None and not allow_plain:
            # Else who can write to the disk could put contents of his own in the place of those that were sealed.
            raise FailedPrecondition(
                f"Collection `{file.parent.name}` is not encrypted, and a keyring was given; nothing was changed. If "
                "it is what you put there, encrypt it with `twinsight rekey`, or have it served as it is with "
                "`--allow-plain-collections` (TWINSIGHT_ALLOW_PLAIN_COLLECTIONS).",
                reason="COLLECTION_PLAIN",
            )
        return PlainForm(head)
    key = keyring.get(head.seal.key_id) if keyring is not None else None
    if key is None:
        have = "no keyring was given" if keyring is None else "the keyring does not have it"
        raise FailedPrecondition(
            f"Collection `{file.parent.name}` is encrypted with the key {head.seal.key_id}, and {have}; nothing was "
            "changed. Give the keyring that has it as `--keyring` (TWINSIGHT_KEYRING).",
            reason="KEY_MISSING",
        )
    cipher = Cipher(key, head.seal.salt, head.spec)
    if not cipher.proves(head.seal.proof):
        raise damaged(file, "its head is not the one that was sealed")
    return SealedForm(cipher, head)


def new_seal(cipher: Cipher) -> Seal:
    """Returns what a new file says of its key."""
    return Seal(cipher.key_id, cipher.salt, cipher.proof())


def _item_place(seq: int, name: str) -> bytes:
    return b"item %d " % seq + name.encode()


def _ingest_place(name: str, batch: int) -> bytes:
    return b"ingest %d " % batch + name.encode()
