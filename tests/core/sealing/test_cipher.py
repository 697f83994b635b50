from __future__ import annotations

import dataclasses
import os
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from twinsight_core.index.base import Metric
from twinsight_core.items import CollectionSpec
from twinsight_core.sealing.cipher import OVERHEAD, Cipher
from twinsight_core.sealing.keyring import Key, new_key

SPEC = CollectionSpec("people", 4, Metric.DOT, "base", "sha256:00", 12.5)
KEY = Key(bytes(range(32)), datetime(2026, 3, 1, tzinfo=UTC))


def test_what_was_sealed_is_opened_in_its_place_alone() -> None:
    cipher = Cipher.new(new_key(), SPEC)
    sealed = cipher.sealed(b"content", b"here")
    assert len(sealed) == len(b"content") + OVERHEAD
    assert cipher.opened(sealed, b"here") == b"content"
    assert cipher.opened(sealed, b"there") is None
    for at in range(len(sealed)):
        assert cipher.opened(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :], b"here") is None
        assert cipher.opened(sealed[:at], b"here") is None


def test_it_is_aes_256_gcm_under_a_key_by_hkdf_of_salt_and_collection() -> None:
    salt = os.urandom(32)
    sealed = Cipher(KEY, salt, SPEC).sealed(b"content", b"here")
    derived = HKDF(SHA256(), length=32, salt=salt, info=b"twinsight store 2 contents of people").derive(KEY.secret)
    assert AESGCM(derived).decrypt(sealed[:12], sealed[12:], b"here") == b"content"


def test_a_content_never_looks_the_same_twice() -> None:
    cipher = Cipher.new(KEY, SPEC)
    assert len({cipher.sealed(b"content", b"here") for _ in range(100)}) == 100


def test_a_name_has_one_pseudonym_in_a_file_and_others_elsewhere() -> None:
    one, other = Cipher.new(KEY, SPEC), Cipher.new(KEY, SPEC)
    assert one.pseudonym("ä") == Cipher(KEY, one.salt, SPEC).pseudonym("ä") != other.pseudonym("ä")
    assert len({one.pseudonym(f"i{n}") for n in range(10_000)}) == 10_000


@pytest.mark.parametrize(
    "other",
    [
        dataclasses.replace(SPEC, id="others"),
        dataclasses.replace(SPEC, dimension=5),
        dataclasses.replace(SPEC, metric=Metric.COSINE),
        dataclasses.replace(SPEC, model_name="other"),
        dataclasses.replace(SPEC, model_digest="sha256:01"),
        dataclasses.replace(SPEC, created_at=13.0),
    ],
)
def test_a_proof_holds_for_its_key_and_collection_alone(other: CollectionSpec) -> None:
    cipher = Cipher.new(KEY, SPEC)
    assert Cipher(KEY, cipher.salt, SPEC).proves(cipher.proof())
    assert not Cipher(KEY, cipher.salt, other).proves(cipher.proof())
    assert not Cipher(new_key(), cipher.salt, SPEC).proves(cipher.proof())
