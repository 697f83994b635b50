"""Collections whose key the keyring does not have: refused alone, or the start with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from twinsight_core.collections.catalog import Catalog
from twinsight_core.collections.collection import Collection, CollectionOptions
from twinsight_core.errors import AlreadyExists, DataLoss, FailedPrecondition, StartupError
from twinsight_core.items import CollectionSpec, NewItem
from twinsight_core.sealing.keyring import Keyring, new_key
from twinsight_core.storage.backups import back_up
from twinsight_core.storage.rekeying import rekey
from twinsight_core.storage.restoring import Restored, restore
from twinsight_core.storage.store import FILE_NAME

OWN, FOREIGN = Keyring(new_key()), Keyring(new_key())
BOTH = OWN.with_primary(FOREIGN.primary)
MESSAGE = (
    f"Collection `foreign` is encrypted with the key {FOREIGN.primary.id}, and the keyring does not have it; nothing "
    "was changed. Give the keyring that has it as `--keyring` (TWINSIGHT_KEYRING)."
)


def _opened(data: Path, keyring: Keyring | None) -> Catalog:
    return Catalog(data, options=CollectionOptions(keyring=keyring, allow_plain=True))


def _made(data: Path, name: str, keyring: Keyring | None) -> None:
    """Puts a collection into a folder by a backup of another."""
    with closing(_opened(data.parent / name, keyring)) as other:
        other.create(CollectionSpec(name, 4)).upsert([NewItem("a", np.ones(4, np.float32))])
    back_up(data.parent / name, data.parent / f"backup-{name}")
    key = None if keyring is None else keyring.primary.id
    assert restore(data.parent / f"backup-{name}", data) == [Restored(name, 1, key)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with `plain` and `foreign`, which has not been opened yet."""
    _made(tmp_path / "data", "plain", None)
    _made(tmp_path / "data", "foreign", FOREIGN)
    return tmp_path / "data"


@contextmanager
def _left_alone(data: Path) -> Iterator[None]:
    """Checks that no byte of `foreign` is changed within."""
    folder = data / "collections" / "foreign"
    before = {file: file.read_bytes() for file in folder.iterdir()}
    yield
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def test_one_is_refused_alone_where_the_keyring_opens_another(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    _made(data, "own", OWN)
    caplog.clear()
    with _left_alone(data), closing(_opened(data, OWN)) as catalog:
        for _ in range(2):
            with pytest.raises(FailedPrecondition) as refused:
                catalog.get("foreign")
            assert (refused.value.reason, refused.value.message) == ("KEY_MISSING", MESSAGE)
        assert [(name, isinstance(one, Collection)) for name, one in catalog.list()] == [
            ("foreign", False),
            ("own", True),
            ("plain", True),
        ]
        with pytest.raises(AlreadyExists, match="Collection `foreign` already exists"):
            catalog.create(CollectionSpec("foreign", 4))
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == [MESSAGE]
    with closing(_opened(data, FOREIGN)) as catalog:
        assert isinstance(dict(catalog.list())["foreign"], Collection)
        with pytest.raises(FailedPrecondition, match="Collection `own` is encrypted with the key"):
            catalog.get("own")


def test_one_that_the_keyring_does_not_have_is_not_encrypted_anew(data: Path) -> None:
    _made(data, "own", OWN)
    with _left_alone(data):
        rekey(data, OWN)
    with closing(_opened(data, OWN)) as catalog:
        assert not isinstance(dict(catalog.list())["foreign"], Collection)


@pytest.mark.parametrize("keyring", [None, OWN], ids=["forgotten", "wrong"])
def test_the_start_is_refused_where_only_plain_collections_open(
    data: Path, keyring: Keyring | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    for _ in range(2):  # the folder is given back
        with (
            _left_alone(data),
            pytest.raises(StartupError, match="Collection `foreign` is encrypted with the key") as refused,
        ):
            _opened(data, keyring)
        assert refused.value.reason == "KEY_MISSING"
    assert sorted(one.name for one in (data / "collections").iterdir()) == ["foreign", "plain"]
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


def test_one_that_is_damaged_does_not_show_that_the_keyring_is_the_right_one(data: Path) -> None:
    _made(data, "own", OWN)
    file = data / "collections" / "own" / FILE_NAME
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    file.write_bytes(content)
    with pytest.raises(StartupError, match="Collection `foreign` is encrypted with the key"):
        _opened(data, OWN)
    with closing(_opened(data, BOTH)) as catalog, pytest.raises(DataLoss):
        catalog.get("own")


def test_one_that_is_refused_goes_only_by_being_deleted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name, keyring in (("foreign", FOREIGN), ("own", OWN)):
        _made(data, name, keyring)
    with closing(_opened(data, OWN)) as catalog:
        catalog.delete("foreign")
        assert [name for name, _ in catalog.list()] == ["own"]
        assert catalog.create(CollectionSpec("foreign", 4)).key_id == OWN.primary.id
