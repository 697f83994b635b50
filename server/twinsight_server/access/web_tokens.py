"""JSON Web Tokens: who signed them, for whom, until when, and what they grant.

The algorithm follows from the key that was configured, never from the token: RSA keys check RS256, P-256 keys ES256,
Ed25519 keys EdDSA, and a secret HS256. Keys are files of the server's own; nothing is downloaded.

A token must have `iss`, `aud`, `exp` and `sub`, and in `twinsight_grants` what it grants, as in the file of keys:

    "twinsight_grants": [{"rights": ["read"], "collections": ["photos*"]}]

It may have a `twinsight_share`, as a key of that file has; what it leaves open is the server's setting.
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
"""The claim that says how much its holder may have."""

_LEEWAY_S = 10
"""By how much two clocks may differ."""

_LEAST_SECRET_BYTES = 32  # RFC 7518, section 3.2: at least as long as the hash
_LEAST_RSA_BITS = 2048  # RFC 7518, section 3.3
_MOST_KEYS = 16
"""Of a token that does not name its key each is tried."""

_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)
_LONGEST_SUBJECT = 256
_WRAPPED = re.compile(r"[A-Za-z0-9+/]{64}|[A-Za-z0-9+/]{76}")
"""A line of base64 that goes on in the next: as long as `openssl` and `base64` make them, and without an end."""

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Algorithm: TypeAlias = Literal["HS256", "RS256", "ES256", "EdDSA"]


@dataclass(frozen=True)
class VerificationKey:
    """What checks a signature.

    Attributes:
        key: a public key, or the secret of HS256.
        algorithm: the one that it is for.
        key_id: its `kid`; empty: it has none.
    """

    key: PublicKey | bytes = field(repr=False)
    algorithm: Algorithm
    key_id: str = ""


class TokenVerifier:
    """Checks tokens of one issuer.

    Args:
        keys: any of them may have signed.
        issuer: who must have issued a token.
        audience: for whom it must be.
    """

    def __init__(self, keys: Sequence[VerificationKey], *, issuer: str, audience: str) -> None:
        self._keys = tuple(keys)
        self._issuer = issuer
        self._audience = audience

    def principal(self, token: str) -> tuple[Principal, float]:
        """Returns whom a token stands for, and until when (seconds since 1970).

        Raises:
            Unproven: it is not good.
        """
        try:
            key_id = jwt.get_unverified_header(token).get("kid", "")
        except (jwt.PyJWTError, ValueError):
            raise Unproven("no JWT") from None
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
                of_claims = f"JWT: {text if text.isprintable() else repr(text)}"  # its signature is good
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
        # It is shown in logs, where what is not printable could change what a terminal shows.
        if not (1 <= len(subject) <= _LONGEST_SUBJECT and subject.isprintable()):
            raise ValueError(f"`sub` must be 1 to {_LONGEST_SUBJECT} printable characters.")
        if GRANTS not in fields:
            raise ValueError(f"`{GRANTS}` is missing.")
        share = read_share(fields.object(SHARE)) if SHARE in fields else Share()
        return Principal("jwt", subject, read_grants(fields, GRANTS), share), fields.number("exp") + _LEEWAY_S


def secret_key(content: bytes) -> list[VerificationKey]:
    """Reads the secrets of HS256, one a line: while one is replaced by another, tokens of both are good.

    The whole file, less a line's end, is one as well: a secret of any bytes may have line ends in it, and one of text
    may have been wrapped, as `openssl rand -base64` prints it.

    Raises:
        StartupError: one is too short, or there are too many.
    """
    whole = content.rstrip(b"\r\n")
    if b"-----BEGIN" in whole:
        # Whoever has a public key could sign with it.
        raise _invalid("the secret is a PEM file; public keys belong in `jwt_public_keys`")
    lines = _lines(whole)
    secrets = [whole, *lines] if len(lines) > 1 else [whole]
    for secret in secrets:
        if len(secret) < _LEAST_SECRET_BYTES:
            raise _invalid(f"the secret has {len(secret)} bytes; each must have at least {_LEAST_SECRET_BYTES}")
    if len(lines) > _MOST_KEYS:
        raise _invalid(f"there are {len(lines)} secrets; there may be {_MOST_KEYS}")
    if len(lines) > 1:
        log.info("several secrets of JWTs are good", count=len(lines))
    return [VerificationKey(secret, "HS256") for secret in secrets]


def _lines(whole: bytes) -> list[bytes]:
    """Returns the secrets of a file that has one a line; none where it is one secret as a whole."""
    try:
        text = whole.decode()
    except UnicodeDecodeError:
        return []
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    if not all(map(str.isprintable, lines)) or any(map(_WRAPPED.fullmatch, lines[:-1])):
        return []
    return [line.encode() for line in lines]


def public_keys(content: bytes) -> list[VerificationKey]:
    """Reads public keys: PEM, one or several, or a JSON Web Key Set, in which keys for other tokens are passed over.

    Raises:
        StartupError: none, too many, or one that is private or weak, or in PEM of no known kind.
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
        raise ValueError("something in it is no public key, or not all of one")
    keys = (load_pem_public_key(block) for block in blocks)
    return [VerificationKey(*_checked(key)) for key in keys]


_JWKS_PARTS = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_JWKS_CURVES = {"EC": "P-256", "OKP": "Ed25519"}
_JWKS_ALGORITHMS: dict[str, Algorithm] = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


def _jwks(content: bytes) -> list[VerificationKey]:
    """Returns the keys of a set that tokens may be signed with; others are passed over (RFC 7517, section 5)."""
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
        # EdDSA has a name of its own for this curve since RFC 9864.
        if algorithm is None or curve != _JWKS_CURVES.get(kind, curve) or said not in {algorithm, curve or algorithm}:
            log.info("a key for other tokens is passed over", kid=name, kty=kind, crv=curve, alg=said or "")
            continue
        parts = {part: one.text(part) if part in one else "" for part in _JWKS_PARTS[kind]}
        found.append(VerificationKey(*_checked(jwt.PyJWK({"kty": kind, **parts}).key), name))
    return found


def _checked(key: object) -> tuple[PublicKey, Algorithm]:
    """Returns a key with the algorithm that it is for.

    Raises:
        ValueError: it is weak or of another kind.
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
    return StartupError(f"The keys of JWTs can't be used: {why}.", reason="JWT_KEY_INVALID")
