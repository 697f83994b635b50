"""Seals and opens the contents of one collection.

Sealed content is `nonce (12 random bytes) | ciphertext | tag (16 bytes)`, by AES-256-GCM. It is bound to its place: to
the collection's file by that file's own keys, and to the row or graph by the caller's associated data. It can't be
opened anywhere else.

The keys of a collection's file are derived from one of the keyring by HKDF-SHA256 (RFC 5869), with a salt that is drawn
when the file is created. So a nonce only has to be unique within the file: random nonces are for 2^32 contents
(SP 800-38D, 8.3), and `twinsight rekey` resets that count.
"""

from __future__ import annotations

import base64
import hmac
import json
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from twinsight_core.items import CollectionSpec
from twinsight_core.sealing.keyring import Key

OVERHEAD = 28
"""Bytes that sealing adds to a content."""

_NONCE, _SALT = 12, 32
# 96 bits: among a billion names, two share a pseudonym with probability 1e-11. Longer ones enlarge the index, whose
# pages are written all over, since pseudonyms have no order.
_PSEUDONYM = 12


class Cipher:
    """The keys of one collection's file. Every method may be called from any thread.

    Attributes:
        key_id: id of the keyring's key.
        salt: from which the file's own keys are derived.
    """

    def __init__(self, key: Key, salt: bytes, spec: CollectionSpec) -> None:
        self.key_id = key.id
        self.salt = salt
        self._facts = json.dumps(
            [2, spec.id, spec.dimension, spec.metric.value, spec.model_name, spec.model_digest, spec.created_at]
        ).encode()
        self._contents = AESGCM(_derived(key, salt, b"contents", spec.id))
        self._names = _derived(key, salt, b"names", spec.id)

    @classmethod
    def new(cls, key: Key, spec: CollectionSpec) -> Cipher:
        """Returns the cipher for a file that is about to be created."""
        return cls(key, os.urandom(_SALT), spec)

    def sealed(self, content: bytes, place: bytes) -> bytes:
        """Returns a content sealed, so that it can be read only with the key and in its place."""
        nonce = os.urandom(_NONCE)
        return nonce + self._contents.encrypt(nonce, content, place)

    def opened(self, sealed: bytes, place: bytes) -> bytes | None:
        """Returns the content; None if it was not sealed with this key for this place, or has changed since."""
        try:
            return self._contents.decrypt(sealed[:_NONCE], sealed[_NONCE:], place)
        except (InvalidTag, ValueError):  # the latter if it is too short
            return None

    def pseudonym(self, name: str) -> str:
        """Returns the pseudonym under which a name is looked up: the same for the same name, within this file only."""
        return base64.b64encode(hmac.digest(self._names, name.encode(), "sha256")[:_PSEUDONYM]).decode()

    def proof(self) -> bytes:
        """Returns a proof by which `proves` later checks that key and head are the same."""
        return self.sealed(b"", b"head " + self._facts)

    def proves(self, proof: bytes) -> bool:
        """Returns whether a proof was made with this key for a collection with the same facts."""
        return self.opened(proof, b"head " + self._facts) is not None


def _derived(key: Key, salt: bytes, purpose: bytes, collection_id: str) -> bytes:
    info = b"twinsight store 2 " + purpose + b" of " + collection_id.encode()
    return HKDF(SHA256(), length=32, salt=salt, info=info).derive(key.secret)
