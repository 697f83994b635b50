"""JSON Web Tokens: who signed them, for whom, until when, and what they grant.

The algorithm follows from the configured key, never from the token: RSA keys verify RS256, P-256 keys ES256, Ed25519
keys EdDSA, and a secret HS256. Keys are local files; nothing is downloaded.

A token must have `iss`, `aud`, `exp` and `sub`, and `twinsight_grants` in the format of the file of API keys:

    "twinsight_grants": [{"rights": ["read"], "collections": ["photos*"]}]

It may have a `twinsight_share`, also in that file's format; the server's settings apply for missing values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from twinsight_core.errors import StartupError
from twinsight_core.json_fields import JsonFields
from twinsight_server.access.principals import Principal, Share, Unproven, read_grants, read_share

log = structlog.stdlib.get_logger("twinsight.access")

GRANTS = "twinsight_grants"
"""The claim that says what a token grants."""

SHARE = "twinsight_share"
"""The claim that says how much of the server its holder may use."""

_LEEWAY_S = 10
"""Tolerated difference of two clocks."""

_LEAST_SECRET_BYTES = 32  # RFC 7518, section 3.2: at least as long as the hash
_LEAST_RSA_BITS = 2048  # RFC 7518, section 3.3
_MOST_KEYS = 16
"""A token that does not name its key is checked with each of them."""

_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_LONGEST_SUBJECT = 256
_WRAPPED = re.compile(r"[A-Za-z0-9+/]{64}|[A-Za-z0-9+/]{76}")
"""A line of base64 that continues on the next: full length as printed by `openssl` and `base64`, no padding."""

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Algorithm: TypeAlias = Literal["HS256", "RS256", "ES256", "EdDSA"]


@dataclass(frozen=True)
class VerificationKey:
    """A key that verifies signatures.

    Attributes:
        key: a public key, or the secret for HS256.
        algorithm: its algorithm.
        key_id: its `kid`; empty: it has none.
    """

    key: PublicKey | bytes = field(repr=False)
    algorithm: Algorithm
    key_id: str = ""


class TokenVerifier:
    """Verifies the tokens of one issuer.

    Args:
        keys: any of them may have signed a token.
        issuer: required `iss` of a token.
        audience: required `aud` of a token.
    """

    def __init__(self, keys: Sequence[VerificationKey], *, issuer: str, audience: str) -> None:
        self._keys = tuple(keys)
        self._issuer = issuer
        self._audience = audience

    def principal(self, token: str) -> tuple[Principal, float]:
        """Returns the caller that a token identifies, and until when (seconds since 1970).

        Raises:
            Unproven: it is not valid.
        """
        try:
            key_id = jwt.get_unverified_header(token).get("kid", "")
        except (jwt.PyJWTError, ValueError):
            raise Unproven("not a JWT") from None
        why, of_claims = "JWT: no key of that name", ""
        for key in self._keys:
            if key_id and key.key_id and key.key_id != key_id:
                continue
            try:
                return self._verified(token, key)
            except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
                why = "JWT: signed by none of the keys"
            except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
                text = str(error)[:200]
                of_claims = f"JWT: {text if text.isprintable() else repr(text)}"  # its signature is valid
        raise Unproven(of_claims or why)

    def _verified(self, token: str, key: VerificationKey) -> tuple[Principal, float]:
        claims: dict[str, object] = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            issuer=self._issuer,
            audience=self._audience,
            leeway=_LEEWAY_S,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        fields = JsonFields(claims)
        subject = fields.text("sub")
        # It appears in logs, where unprintable characters could control a terminal.
        if not (1 <= len(subject) <= _LONGEST_SUBJECT and subject.isprintable()):
            raise ValueError(f"`sub` must be 1 to {_LONGEST_SUBJECT} printable characters.")
        if GRANTS not in fields:
            raise ValueError(f"`{GRANTS}` is missing.")
        share = read_share(fields.object(SHARE)) if SHARE in fields else Share()
        return Principal("jwt", subject, read_grants(fields, GRANTS), share), fields.number("exp") + _LEEWAY_S


def secret_key(content: bytes) -> list[VerificationKey]:
    """Reads the secrets for HS256, one per line: during a rotation, tokens of both secrets are valid.

    The whole file without its final line end is a secret too: a binary secret may contain line ends, and a text may
    have been wrapped, as `openssl rand -base64` prints it. The lines of such a text count as secrets where each is long
    enough to be one, since two secrets of full lines look the same.

    Raises:
        StartupError: one is too short or a PEM file, or there are too many.
    """
    whole = content.rstrip(b"\r\n")
    if b"-----BEGIN" in whole:
        # Anyone who has a public key could sign with it.
        raise _invalid("the secret is a PEM file; public keys belong in `jwt_public_keys`")
    lines = _lines(whole)
    secrets = [whole, *lines] if len(lines) > 1 else [whole]
    for secret in secrets:
        if len(secret) < _LEAST_SECRET_BYTES:
            raise _invalid(f"the secret has {len(secret)} bytes; each must have at least {_LEAST_SECRET_BYTES}")
    if len(lines) > _MOST_KEYS:
        raise _invalid(f"there are {len(lines)} secrets; at most {_MOST_KEYS} are allowed")
    if len(lines) > 1:
        log.info("several JWT secrets are valid", count=len(lines))
    return [VerificationKey(secret, "HS256") for secret in secrets]


def _lines(whole: bytes) -> list[bytes]:
    """Returns the secrets of a file with one per line; empty if the whole file is one secret."""
    try:
        text = whole.decode()
    except UnicodeDecodeError:
        return []
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not all(map(str.isprintable, lines)):
        return []
    is_wrapped = any(map(_WRAPPED.fullmatch, lines[:-1]))
    if is_wrapped and (len(lines) > _MOST_KEYS or any(len(line.encode()) < _LEAST_SECRET_BYTES for line in lines)):
        return []
    return [line.encode() for line in lines]


def public_keys(content: bytes) -> list[VerificationKey]:
    """Reads public keys: one or several in PEM, or a JSON Web Key Set, in which keys for other tokens are skipped.

    Raises:
        StartupError: there are none or too many, or one is private, weak or (in PEM) of an unknown kind.
    """
    try:
        keys = _jwks(content) if content.lstrip().startswith(b"{") else _pem(content)
    except (ValueError, TypeError, UnsupportedAlgorithm, RecursionError, jwt.PyJWTError) as error:
        raise _invalid(str(error).rstrip(".")) from None
    if not 1 <= len(keys) <= _MOST_KEYS:
        raise _invalid(f"there are {len(keys)} public keys; there must be 1 to {_MOST_KEYS}")
    return keys


def _pem(content: bytes) -> list[VerificationKey]:
    if b"PRIVATE KEY" in content:
        raise ValueError("a private key; the server needs, and should have, only the public one")
    blocks = _PEM.findall(content)
    if len(blocks) != content.count(b"-----BEGIN"):
        raise ValueError("it contains something other than complete public keys")
    keys = (load_pem_public_key(block) for block in blocks)
    return [VerificationKey(*_checked(key)) for key in keys]


_JWKS_PARTS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_JWKS_CURVES = {"EC": "P-256", "OKP": "Ed25519"}
_JWKS_ALGORITHMS: dict[str, Algorithm] = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


def _jwks(content: bytes) -> list[VerificationKey]:
    """Returns the keys of a set that tokens may be signed with; others are skipped (RFC 7517, section 5)."""
    found: list[VerificationKey] = []
    for one in JsonFields(json.loads(content)).objects("keys"):
        if "d" in one or "k" in one:
            raise ValueError("a private key; the server needs, and should have, only the public one")
        if "use" in one and one.text("use") != "sig":
            continue
        kind, name = one.text("kty"), one.text("kid") if "kid" in one else ""
        curve = one.text("crv") if "crv" in one else ""
        algorithm = _JWKS_ALGORITHMS.get(kind)
        said = one.text("alg") if "alg" in one else algorithm
        # Since RFC 9864, EdDSA with this curve has its own algorithm name.
        if algorithm is None or curve != _JWKS_CURVES.get(kind, curve) or said not in {algorithm, curve or algorithm}:
            log.info("skipping a key for other tokens", kid=name, kty=kind, crv=curve, alg=said or "")
            continue
        parts = {part: one.text(part) if part in one else "" for part in _JWKS_PARTS[kind]}
        found.append(VerificationKey(*_checked(jwt.PyJWK({"kty": kind, **parts}).key), name))
    return found


def _checked(key: object) -> tuple[PublicKey, Algorithm]:
    """Returns a key with its algorithm.

    Raises:
        ValueError: it is weak or of an unsupported kind.
    """
    match key:
        case rsa.RSAPublicKey():
            if key.key_size < _LEAST_RSA_BITS:
                raise ValueError(f"an RSA key of {key.key_size} bits; it must have at least {_LEAST_RSA_BITS}")
            return key, "RS256"
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return key, "ES256"
        case ed25519.Ed25519PublicKey():
            return key, "EdDSA"
        case _:
            raise ValueError("keys must be RSA, P-256 or Ed25519")


def _invalid(why: str) -> StartupError:
    return StartupError(f"The JWT keys can't be used: {why}.", reason="JWT_KEY_INVALID")
