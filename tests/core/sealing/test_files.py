from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from twinsight_core.errors import DataLoss
from twinsight_core.items import CollectionSpec
from twinsight_core.sealing import files
from twinsight_core.sealing.cipher import OVERHEAD, Cipher
from twinsight_core.sealing.files import opened_file, sealed_file
from twinsight_core.sealing.keyring import new_key

Damage = Callable[[bytes], bytes]
PIECE = 1000
CONTENT = random.Random(0).randbytes(3 * PIECE + 500)


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE", PIECE)


@pytest.fixture
def cipher() -> Cipher:
    return Cipher.new(new_key(), CollectionSpec("a", 2))


def _seal(file: Path, cipher: Cipher, content: bytes = CONTENT, place: bytes = b"here") -> None:
    with sealed_file(file, cipher, place) as path:
        path.write_bytes(content)


def _open(file: Path, cipher: Cipher, place: bytes = b"here") -> bytes:
    with opened_file(file, cipher, place) as path:
        return path.read_bytes()


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, len(CONTENT)])
def test_what_was_sealed_is_opened(tmp_path: Path, cipher: Cipher, size: int) -> None:
    _seal(tmp_path / "sealed", cipher, CONTENT[:size])
    assert _open(tmp_path / "sealed", cipher) == CONTENT[:size]
    assert (tmp_path / "sealed").stat().st_size == size + OVERHEAD * max(1, -(-size // PIECE))


def test_what_is_plain_lies_in_memory_alone(tmp_path: Path, cipher: Cipher) -> None:
    with sealed_file(tmp_path / "sealed", cipher, b"here") as path:
        path.write_bytes(CONTENT)
        assert path.readlink().name.startswith("memfd:")
        assert not list(tmp_path.iterdir())
    assert not path.exists()
    with opened_file(tmp_path / "sealed", cipher, b"here") as path:
        assert [file.name for file in tmp_path.iterdir()] == ["sealed"]
    sealed = (tmp_path / "sealed").read_bytes()
    assert not any(CONTENT[at : at + 8] in sealed for at in range(0, len(CONTENT), 8))


def test_a_file_that_fails_to_be_written_is_not_sealed(tmp_path: Path, cipher: Cipher) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(CONTENT)
        raise OSError("full")

    with pytest.raises(OSError, match="full"), sealed_file(tmp_path / "sealed", cipher, b"here") as path:
        fail(path)
    assert not list(tmp_path.iterdir())


_WHOLE = PIECE + OVERHEAD


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda sealed: sealed[:_WHOLE], id="cut to its first piece"),
        pytest.param(lambda sealed: sealed[: 3 * _WHOLE], id="without its last piece"),
        pytest.param(lambda sealed: sealed[_WHOLE:], id="without its first piece"),
        pytest.param(lambda sealed: sealed[_WHOLE : 2 * _WHOLE] + sealed[:_WHOLE] + sealed[2 * _WHOLE :], id="swapped"),
        pytest.param(lambda sealed: sealed[:_WHOLE] * 3 + sealed[3 * _WHOLE :], id="repeated"),
        pytest.param(lambda sealed: sealed + sealed[:_WHOLE], id="a piece more"),
        pytest.param(lambda sealed: sealed + b"0", id="a byte more"),
        pytest.param(lambda sealed: sealed[:-1], id="a byte less"),
        pytest.param(lambda sealed: sealed[:50] + bytes([sealed[50] ^ 1]) + sealed[51:], id="a bit turned"),
        pytest.param(lambda _: b"", id="empty"),
    ],
)
def test_a_file_that_was_changed_is_refused(tmp_path: Path, cipher: Cipher, damage: Damage) -> None:
    file = tmp_path / "sealed"
    _seal(file, cipher)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataLoss, match="`sealed` is not what was sealed there"):
        _open(file, cipher)


def test_a_file_is_bound_to_its_place_and_its_collection(tmp_path: Path, cipher: Cipher) -> None:
    file = tmp_path / "sealed"
    _seal(file, cipher)
    other = Cipher.new(new_key(), CollectionSpec("a", 2))
    for wrong, place in ((cipher, b"there"), (other, b"here")):
        with pytest.raises(DataLoss):
            _open(file, wrong, place)
