"""Authenticates and authorises callers.

1. `identify` takes the one credential of a call, `authorization: Bearer ...` or `x-api-key`, and finds its owner: a key
   by its digest, a JWT by its signature, whose check is remembered for a moment. Whatever is wrong with it, the error
   is always the same.
2. `check` looks up what the method needs (`methods`) and compares it with the caller's grants. It does not know which
   collections exist, so its errors don't reveal that either.

If the server requires no token, every caller is `ANYONE`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from twinsight_core.errors import PermissionDenied, Unauthenticated
from twinsight_server.access.keys import PREFIX, KeyRing, read_keys
from twinsight_server.access.methods import RULES, Rule
from twinsight_server.access.principals import ANYONE, Principal, Unproven
from twinsight_server.access.watched import WatchedFiles
from twinsight_server.access.web_tokens import TokenVerifier, VerificationKey, public_keys, secret_key

_REMEMBERED_S = 60.0
"""How long the check of a JWT is remembered: a signature takes some 100 µs, its digest one."""

_MOST_REMEMBERED = 4096

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True)
class JwtSettings:
    """How JWTs are verified.

    Attributes:
        secret: file of the secrets for HS256.
        public_keys: file of public keys.
        issuer: required `iss` of a token.
        audience: required `aud` of a token.
    """

    secret: Path | None
    public_keys: Path | None
    issuer: str
    audience: str


class Guard:
    """Identifies callers by their tokens and checks their rights. May be used from any thread."""

    def __init__(
        self, *, keys: Path | None = None, tokens: JwtSettings | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        """Reads the files.

        Args:
            keys: file of API keys.
            tokens: how JWTs are verified. Without keys and tokens, everyone may do everything.
            clock: seconds since 1970.

        Raises:
            StartupError: a file can't be read or is invalid.
        """
        self._clock = clock
        self._keys = (
            WatchedFiles(
                [keys], lambda contents: KeyRing(read_keys(contents[0], path=keys)), reason="KEY_FILE_UNREADABLE"
            )
            if keys
            else None
        )
        self._verifiers = _verifiers(tokens) if tokens else None
        self.is_open = not (self._keys or self._verifiers)

    def identify(self, metadata: Metadata) -> Principal:
        """Returns the caller.

        Raises:
            Unauthenticated: there is no credential, more than one, or an invalid one.
        """
        if self.is_open:
            return ANYONE
        try:
            return self._principal(_credential(metadata))
        except Unproven as why:
            # The cause is for the log and the audit log: the caller gets the same error whatever it is.
            raise Unauthenticated(
                "This server requires a token, and the call has no valid one.", reason="CREDENTIALS_INVALID"
            ) from why

    def knows(self, metadata: Metadata) -> bool:
        """Whether a digest is enough to identify the caller; if not, `identify` may still succeed.

        It neither reads files nor checks signatures, and uses keys that may have been revoked a moment ago.
        """
        if self.is_open:
            return True
        try:
            token = _credential(metadata)
            if token.startswith(PREFIX):
                return self._keys is not None and bool(self._keys.latest.principal(token, self._now()))
        except Unproven:
            return False
        return self._verifiers is not None and self._verifiers.latest.remembers(token, self._clock())

    @staticmethod
    def check(principal: Principal, method: str, collection: str | None, *, rule: Rule | None = None) -> None:
        """Checks that a caller has a right.

        Args:
            principal: the caller.
            method: name of the method.
            collection: the one that the request names; None: it names none.
            rule: what is needed; None: the method's own rule.

        Raises:
            PermissionDenied: the right is missing.
            KeyError, TypeError: the method has no rule, or the collection was not given: a bug in the server, which
                lets no call pass.
        """
        rule = rule or RULES[method]
        if not rule.on_collection:
            _check_somewhere(principal, method, rule)
            return
        if collection is None:
            raise TypeError(f"{method} names a collection, which was not given.")
        if not principal.may(rule.right, collection):
            shown = collection if len(collection) <= 80 else collection[:80] + "…"
            raise PermissionDenied(
                f"{method} needs the right `{rule.right}` on collection `{shown}`.",
                reason="RIGHT_MISSING",
                field="collection",
            )

    @staticmethod
    def check_opening(principal: Principal, method: str) -> None:
        """Checks that some message of a stream could be the caller's: those that come are checked by `check`.

        Raises:
            PermissionDenied: it has the method's right on no collection.
        """
        if rule := RULES.get(method):
            _check_somewhere(principal, method, rule)

    def _principal(self, token: str) -> Principal:
        if token.startswith(PREFIX):
            if self._keys is None:
                raise Unproven("an API key, but the server accepts none")
            return self._keys.current().principal(token, self._now())
        if self._verifiers is None:
            raise Unproven("not an API key, and the server accepts no JWT")
        return self._verifiers.current().principal(token, self._clock())

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _check_somewhere(principal: Principal, method: str, rule: Rule) -> None:
    if not principal.may_somewhere(rule.right):
        raise PermissionDenied(f"{method} needs the right `{rule.right}`.", reason="RIGHT_MISSING")


class _Verifiers:
    """Verifies JWTs and remembers the results for a moment. Changed keys make a new instance."""

    def __init__(self, verifier: TokenVerifier) -> None:
        self._verifier = verifier
        self._remembered: dict[bytes, _Remembered] = {}
        self._adding = threading.Lock()

    def remembers(self, token: str, now: float) -> bool:
        known = self._remembered.get(_digest(token))
        return known is not None and now < known.until

    def principal(self, token: str, now: float) -> Principal:
        digest = _digest(token)
        known = self._remembered.get(digest)
        if known is not None and now < known.until:
            return known.principal
        principal, expires = self._verifier.principal(token)
        with self._adding:
            self._remembered.pop(digest, None)
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[digest] = _Remembered(principal, min(expires, now + _REMEMBERED_S))
        return principal


@dataclass(frozen=True)
class _Remembered:
    principal: Principal
    until: float = field(compare=False)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _verifiers(tokens: JwtSettings) -> WatchedFiles[_Verifiers]:
    readers: list[tuple[Path, Callable[[bytes], list[VerificationKey]]]] = []
    if tokens.secret:
        readers.append((tokens.secret, secret_key))
    if tokens.public_keys:
        readers.append((tokens.public_keys, public_keys))

    def parse(contents: Iterable[bytes]) -> _Verifiers:
        keys = [key for (_, read), content in zip(readers, contents, strict=True) for key in read(content)]
        return _Verifiers(TokenVerifier(keys, issuer=tokens.issuer, audience=tokens.audience))

    return WatchedFiles([path for path, _ in readers], parse, reason="JWT_KEY_UNREADABLE")


def _credential(metadata: Metadata) -> str:
    """Returns the one token of a call.

    Raises:
        Unproven: there is none, or more than one, which would be ambiguous.
    """
    found: list[str] = []
    for key, value in metadata:
        if key == "authorization":
            scheme, _, token = str(value).partition(" ")
            found.append(token.strip() if scheme.lower() == "bearer" else "")
        elif key == "x-api-key":
            found.append(str(value) if str(value).startswith(PREFIX) else "")
    if len(found) != 1 or not found[0]:
        raise Unproven("no token" if len(found) < 2 else "more than one token")
    return found[0]
