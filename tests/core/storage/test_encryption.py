"""Of what an encrypted collection holds no byte lies plainly in its data folder, at any time.

The same scan of a folder that is not encrypted, which finds everything, is the control.
"""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from benchmarks.torture.children import child

from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import AlreadyExists, FailedPrecondition, StartupError
from twinsight_core.index.base import Metric, prepared
from twinsight_core.index.hnsw import GraphParameters
from twinsight_core.items import Checkpoint, CollectionSpec, NewItem, SearchOptions
from twinsight_core.sealing.keyring import Keyring, new_key
from twinsight_core.search.index_policy import IndexPolicy
from twinsight_core.storage.backups import back_up
from twinsight_core.storage.rekeying import Rekeyed, rekey
from twinsight_core.storage.restoring import restore
from twinsight_core.storage.salvaging import salvage

DIMENSION, BATCH, BATCHES = 32, 60, 8
KEYRING = Keyring(new_key())


def _options(keyring: Keyring | None) -> CollectionOptions:
    # So few that graphs and snapshots are written all the time.
    return CollectionOptions(
        graph=GraphParameters(links=8, build_width=40),
        policy=IndexPolicy(graph_from=100, patience=20, snapshot_share=0.02),
        keyring=keyring,
    )


def _plain_too(keyring: Keyring | None) -> CollectionOptions:
    return dataclasses.replace(_options(keyring), allow_plain=True)


def _vector(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=DIMENSION).astype(np.float32)


def _item(number: int) -> NewItem:
    return NewItem(_id(number), _vector(number), {"diagnosis": f"secret-{_id(number)}"})


def _id(number: int) -> str:
    return f"person-{71_000_000 + number}"


def _marks(count: int) -> np.ndarray:
    """Returns any two components, ids, and metadata of items, names of fields and of bulk writes, as 8 bytes each."""
    texts = [b"diagnosi", b"bulk-wri", b"person-7", b"secret-p"]
    for number in range(count):
        texts += [_id(number)[-8:].encode()]
        vector = _vector(number)
        for form in (vector, prepared(vector[None], Metric.COSINE)[0]):
            whole = form.astype("<f4").tobytes()
            texts += [whole[at : at + 8] for at in range(0, len(whole) - 4, 4)]
    return np.unique(np.frombuffer(b"".join(texts), "<u8"))


def _traces(data: Path, marks: np.ndarray) -> set[str]:
    """Returns the kinds of files that hold a mark at any place."""
    found: set[str] = set()
    for file in data.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):  # a graph's file, replaced meanwhile
            content = file.read_bytes()
            for offset in range(min(8, len(content))):
                words = np.frombuffer(content, "<u8", count=(len(content) - offset) // 8, offset=offset)
                if np.isin(words, marks).any():
                    found.add(file.name.partition("-0")[0])
    return found


def _write(lines: Connection, data: str, keyring: Keyring | None) -> None:
    """Writes, replaces, deletes and purges until it is killed, and tells after each batch."""
    catalog = Catalog(Path(data), options=_options(keyring))
    collection = catalog.create(CollectionSpec("people", DIMENSION, Metric.COSINE))
    for batch in range(1_000_000):
        first = batch % BATCHES * BATCH
        items = [_item(number) for number in range(first, first + BATCH)]
        collection.upsert(items, checkpoint=Checkpoint(f"bulk-write-{batch}", 1))
        collection.delete([items[0].id], purge=batch % 7 == 6)
        collection.search(np.stack([items[1].vector]), SearchOptions(3))
        lines.send_bytes(b"written")


@pytest.mark.parametrize("keyring", [None, KEYRING], ids=["plain", "encrypted"])
def test_nothing_lies_plainly_on_the_disk_while_it_runs_or_after_it_is_killed(
    tmp_path: Path, keyring: Keyring | None
) -> None:
    data = tmp_path / "data"
    marks = _marks(BATCH * BATCHES)
    found: set[str] = set()
    with child(_write, str(data), keyring) as writer:
        for _ in range(3 * BATCHES):
            assert writer.line(60) == "written"
            found |= _traces(data, marks)
        writer.kill()
    found |= _traces(data, marks)
    with closing(Catalog(data, options=_options(keyring))) as catalog:
        collection = catalog.get("people")
        assert collection.wait_indexed(60)
        found |= _traces(data, marks)
        assert collection.get([_id(7)])[0] is not None
        back_up(data, tmp_path / "backup")
        salvage(data, "people", tmp_path / "salvaged")
    found |= _traces(data, marks)
    assert list((data / "collections" / "people").glob("graph-*"))
    restore(tmp_path / "backup", tmp_path / "restored")
    for folder in ("backup", "salvaged", "restored"):
        assert bool(_traces(tmp_path / folder, marks)) == (keyring is None)
    if keyring is None:
        assert found >= {"store.db", "store.db-wal", "graph"}
    else:
        assert found == set()


def test_what_was_backed_up_or_salvaged_without_the_key_opens_with_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with closing(Catalog(data, options=_options(KEYRING))) as catalog:
        people = catalog.create(CollectionSpec("people", DIMENSION))
        people.upsert([_item(number) for number in range(BATCH)], checkpoint=Checkpoint("bulk", 3))
    back_up(data, tmp_path / "backup")
    saved = salvage(data, "people", tmp_path / "salvaged")
    assert (saved.entry.item_count, saved.mismatched, saved.forgotten) == (BATCH, 0, 0)
    for source in ("backup", "salvaged"):
        restore(tmp_path / source, data, replace=True)
        with closing(Catalog(data, options=_options(KEYRING))) as catalog:
            people = catalog.get("people")
            (item,) = people.get([_id(7)], include_vectors=True)
            assert item is not None
            assert item.vector is not None
            assert np.array_equal(item.vector, _vector(7))
            assert item.metadata == {"diagnosis": f"secret-{_id(7)}"}
            assert people.last_batch("bulk") == 3


def test_an_encrypted_folder_is_refused_without_its_key_and_left_as_it_is(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with closing(Catalog(data, options=_options(KEYRING))) as catalog:
        catalog.create(CollectionSpec("people", DIMENSION)).upsert([_item(0)])
    before = {file: file.read_bytes() for file in data.rglob("*") if file.is_file()}
    for keyring, have in ((None, "no keyring was given"), (Keyring(new_key()), "the keyring does not have it")):
        for _ in range(2):  # the folder is given back
            with pytest.raises(StartupError) as refused:
                Catalog(data, options=_options(keyring))
            assert refused.value.reason == "KEY_MISSING"
            assert refused.value.message == (
                f"Collection `people` is encrypted with the key {KEYRING.primary.id}, and {have}; nothing was changed. "
                "Give the keyring that has it as `--keyring` (TWINSIGHT_KEYRING)."
            )
    assert {file: file.read_bytes() for file in data.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("copied", [False, True], ids=["foreign", "restored"])
def test_a_plain_collection_in_the_place_of_an_encrypted_one_is_refused_alone_and_left_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, copied: bool
) -> None:
    data, foreign = tmp_path / "data", tmp_path / "foreign"
    for folder, keyring in ((data, KEYRING), (foreign, None)):
        with closing(Catalog(folder, options=_options(keyring))) as catalog:
            for name in ("beta", "gamma"):
                catalog.create(CollectionSpec(name, DIMENSION)).upsert([_item(0)])
    if copied:
        back_up(foreign, tmp_path / "backup")
        restore(tmp_path / "backup", data, only=["beta"], replace=True)
    else:
        shutil.rmtree(data / "collections" / "beta")
        shutil.copytree(foreign / "collections" / "beta", data / "collections" / "beta")
    before = {file: file.read_bytes() for file in (data / "collections" / "beta").iterdir()}
    message = (
        "Collection `beta` is not encrypted, and a keyring was given; nothing was changed. If it is what you put "
        "there, encrypt it with `twinsight rekey`, or have it served as it is with `--allow-plain-collections` "
        "(TWINSIGHT_ALLOW_PLAIN_COLLECTIONS)."
    )
    with closing(Catalog(data, options=_options(KEYRING))) as catalog:
        for _ in range(2):  # an error of its own each time
            with pytest.raises(FailedPrecondition) as refused:
                catalog.get("beta")
            assert (refused.value.message, refused.value.reason) == (message, "COLLECTION_PLAIN")
        assert [(name, isinstance(one, Collection)) for name, one in catalog.list()] == [
            ("beta", False),
            ("gamma", True),
        ]
        assert catalog.get("gamma").get([_id(0)]) != [None]
        with pytest.raises(AlreadyExists):
            catalog.create(CollectionSpec("beta", DIMENSION))
    assert [record.getMessage() for record in caplog.records] == [message]
    assert {file: file.read_bytes() for file in (data / "collections" / "beta").iterdir()} == before

    (done, _) = rekey(data, KEYRING)
    assert done == Rekeyed("beta", 1, None, KEYRING.primary.id)
    with closing(Catalog(data, options=_options(KEYRING))) as catalog:
        assert catalog.get("beta").get([_id(0)]) != [None]


def test_a_plain_collection_that_is_refused_can_be_deleted(tmp_path: Path) -> None:
    with closing(Catalog(tmp_path, options=_options(None))) as catalog:
        catalog.create(CollectionSpec("a", DIMENSION))
    with closing(Catalog(tmp_path, options=_options(KEYRING))) as catalog:
        catalog.delete("a")
        assert catalog.create(CollectionSpec("a", DIMENSION)).key_id == KEYRING.primary.id


def test_collections_under_another_key_or_where_allowed_none_are_served_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Keyring(new_key())
    for name, keyring in (("a", None), ("b", first)):
        with closing(Catalog(tmp_path, options=_plain_too(keyring))) as catalog:
            catalog.create(CollectionSpec(name, DIMENSION)).upsert([_item(0)])
    rotated = first.with_primary(new_key())
    with closing(Catalog(tmp_path, options=_plain_too(rotated))) as catalog:
        catalog.create(CollectionSpec("c", DIMENSION)).upsert([_item(0)])
        for name, key in (("a", None), ("b", first.primary.id), ("c", rotated.primary.id)):
            assert catalog.get(name).key_id == key
            assert catalog.get(name).get([_id(0)]) != [None]
    primary = rotated.primary.id
    assert [record.getMessage() for record in caplog.records if "rekey" in record.getMessage()] == [
        f"collection `a` is not encrypted, and the primary key is {first.primary.id}: `twinsight rekey` changes that",
        f"collection `a` is not encrypted, and the primary key is {primary}: `twinsight rekey` changes that",
        f"collection `b` is encrypted with the key {first.primary.id}, and the primary key is {primary}: "
        "`twinsight rekey` changes that",
    ]
