from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import jwt.algorithms
import jwt.utils
import pytest
import structlog.testing
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from twinsight_core.errors import PermissionDenied, StartupError, Unauthenticated
from twinsight_server.access.guard import Guard, JwtSettings
from twinsight_server.access.keys import ApiKey, changing, digest, new_key, read_keys
from twinsight_server.access.methods import RULES
from twinsight_server.access.principals import ANYONE, Grant, Principal, Right, Share, Unproven
from twinsight_server.access.watched import WatchedFiles
from twinsight_server.access.web_tokens import secret_key

SECRET = "a secret of more than thirty-two bytes"  # noqa: S105 - of these tests alone
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def add(path: Path, name: str, *rights: Right, expires: datetime | None = None) -> str:
    key = new_key()
    with changing(path) as keys:
        keys[name] = ApiKey(digest(key), datetime.now(UTC), (Grant(frozenset(rights), ("photos*",)),), expires)
    return key


def bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("authorization", f"Bearer {token}")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_known_in_either_header_and_nothing_else_is(file: Path) -> None:
    key = add(file, "phone", "read")
    guard = Guard(keys=file)
    for metadata in (bearer(key), [("x-api-key", key)], [("authorization", f"bearer  {key}")]):
        assert guard.identify(metadata).name == "phone"
    wrong: list[list[tuple[str, str | bytes]]] = [
        [],
        bearer(""),
        bearer(new_key()),
        bearer(key[:-1]),
        bearer(key.upper()),
        bearer("a.b.c"),
        [("authorization", f"Basic {key}")],
        [("x-api-key", "\udcff")],
        [*bearer(key), ("x-api-key", key)],
        [*bearer(key), *bearer(key)],
    ]
    texts = set()
    for metadata in wrong:
        with pytest.raises(Unauthenticated) as refused:
            guard.identify(metadata)
        texts.add((refused.value.message, refused.value.reason))
    assert texts == {("This server requires a token, and the call has no valid one.", "CREDENTIALS_INVALID")}


def test_an_expired_key_is_refused(file: Path) -> None:
    now = datetime.now(UTC)
    key = add(file, "old", "read", expires=now + timedelta(hours=1))
    assert Guard(keys=file).identify(bearer(key)).name == "old"
    with pytest.raises(Unauthenticated):
        Guard(keys=file, clock=(now + timedelta(hours=2)).timestamp).identify(bearer(key))


def test_the_file_has_no_key_in_it_and_neither_has_anything_that_is_shown(file: Path) -> None:
    key = add(file, "phone", "read")
    assert key not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    keys = read_keys(file.read_bytes(), path=file)
    assert digest(key) not in repr(keys)
    for broken in (
        f'{{"keys": {{"a": {{"sha256": "{key}"',
        f'{{"keys": {{"{key}": {{}}}}}}',
        _with_key_as_digest(file, key),
    ):
        with pytest.raises(StartupError) as told:
            read_keys(broken.encode(), path=file)
        assert key not in told.value.message


def _with_key_as_digest(file: Path, key: str) -> str:
    content = json.loads(file.read_text())
    content["keys"]["phone"]["sha256"] = [key]
    return json.dumps(content)


def test_a_written_file_reads_as_it_was(file: Path) -> None:
    share = Share(calls_per_s=1.5, max_calls=0)
    one = ApiKey("0" * 64, datetime(2026, 1, 2, tzinfo=UTC), (Grant(frozenset({"admin"}), ("*",)),), None, share)
    with changing(file) as keys:
        keys["one"] = one
    assert read_keys(file.read_bytes(), path=file) == {"one": one}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grants": []}, "`grants` must have 1 to 64 entries"),
        (
            {"grants": [{"rights": ["all"], "collections": ["*"]}]},
            "`rights` must be some of `search`, `read`, `write`, `admin`",
        ),
        ({"grants": [{"rights": ["read"], "collections": ["a/b"]}]}, "must be collection ids;"),
        ({"grants": [{"rights": ["read"], "collection": ["a"]}]}, "`keys.a.grants[0].collection` is unknown"),
        ({"sha256": "12"}, "`keys.a.sha256` must be 64 hexadecimal digits"),
        ({"created": "2026-01-02T00:00:00"}, "`created` must have a time zone"),
        ({"expires": "9999-12-31T23:59:59-05:00"}, "`expires` must be in the years 1 to 9999 in UTC"),
        ({"share": {"calls_per_s": -1}}, "`calls_per_s` (=-1.0) must be between 0 and"),
    ],
)
def test_a_wrong_entry_is_told(file: Path, change: dict[str, object], said: str) -> None:
    entry = {
        "sha256": "0" * 64,
        "created": "2026-01-02T00:00:00Z",
        "grants": [{"rights": ["read"], "collections": ["*"]}],
        **change,
    }
    with pytest.raises(StartupError) as told:
        read_keys(json.dumps({"keys": {"a": entry}}).encode(), path=file)
    assert said in told.value.message


def test_changed_files_count_and_broken_ones_do_not(tmp_path: Path) -> None:
    path, now = tmp_path / "file", [0.0]
    path.write_bytes(b"1")

    def parse(contents: object) -> int:
        text = path.read_bytes()
        assert [text] == contents
        if not text.isdigit():
            raise StartupError("no number", reason="X")
        return int(text)

    files = WatchedFiles([path], parse, reason="X", clock=lambda: now[0])
    path.write_bytes(b"2")
    assert files.current() == 1, "not looked at yet"
    with structlog.testing.capture_logs() as lines:
        for content, value in ((b"2", 2), (b"x", 2), (b"x", 2), (b"3", 3), (None, 3), (None, 3), (b"4", 4)):
            now[0] += 1
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
            assert files.current() == value
    assert [line["log_level"] for line in lines] == ["info", "warning", "info", "warning", "info"]


def test_each_right_is_for_itself_and_for_the_collections_it_names() -> None:
    one = Principal("key", "a", (Grant(frozenset({"read"}), ("photos*", "b?")), Grant(frozenset({"write"}), ("in",))))
    assert [name for name in ("photos", "photos2", "b1", "b", "in", "xphotos") if one.may_know(name)] == [
        "photos",
        "photos2",
        "b1",
    ]
    assert one.may("write", "in")
    assert not one.may("read", "in")
    assert not one.may_somewhere("admin")
    finder = Principal("key", "c", (Grant(frozenset({"search"}), ("photos",)),))
    assert finder.may_know("photos")
    assert finder.may_somewhere("search")
    assert not finder.may("read", "photos")
    assert not Principal("key", "b", (Grant(frozenset({"read"}), ()),)).may_know("")


def test_a_refusal_is_the_same_for_what_exists_and_what_does_not_and_a_forgotten_method_lets_nobody_through() -> None:
    one = Principal("key", "a", (Grant(frozenset({"read"}), ("photos",)),))
    Guard.check(one, "Search", "photos")
    with pytest.raises(PermissionDenied, match=r"^Search needs the right `search` on collection `secret`\.$"):
        Guard.check(one, "Search", "secret")
    with pytest.raises(PermissionDenied, match=r"^UpsertItems needs the right `write` on collection `photos`\.$"):
        Guard.check(one, "UpsertItems", "photos")
    with pytest.raises(TypeError):
        Guard.check(ANYONE, "Search", None)
    with pytest.raises(KeyError):
        Guard.check(ANYONE, "NewMethod", None)
    for method in RULES:
        Guard.check(ANYONE, method, "any")


def claims(**change: object) -> dict[str, object]:
    now = datetime.now(UTC)
    whole = {
        "iss": "https://issuer",
        "aud": "twinsight",
        "sub": "alice",
        "exp": now + timedelta(hours=1),
        "twinsight_grants": [{"rights": ["read"], "collections": ["photos*"]}],
        **change,
    }
    return {name: value for name, value in whole.items() if value is not None}


def jwt_guard(
    tmp_path: Path, *, secret: bool = False, public: bytes = b"", clock: Callable[[], float] | None = None
) -> Guard:
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "public").write_bytes(public)
    settings = JwtSettings(
        tmp_path / "secret" if secret else None, tmp_path / "public" if public else None, "https://issuer", "twinsight"
    )
    return Guard(tokens=settings, clock=clock) if clock else Guard(tokens=settings)


def pem(key: Private) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


KEYS: dict[str, Private] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def jwks(**kids: str) -> bytes:
    keys = [public_jwk(KEYS[name]) | {"kid": kid, "use": "sig", "alg": name} for name, kid in kids.items()]
    return json.dumps({"keys": keys}).encode()


def public_jwk(key: Private) -> dict[str, str]:
    match key:
        case rsa.RSAPrivateKey():
            text = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())
        case ec.EllipticCurvePrivateKey():
            text = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())
        case ed25519.Ed25519PrivateKey():
            text = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())
    made: dict[str, str] = json.loads(text)
    return made


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize("form", ["pem", "jwks"])
def test_a_token_is_known_by_its_signers_public_key(tmp_path: Path, algorithm: str, form: str) -> None:
    public = b"".join(map(pem, KEYS.values())) if form == "pem" else jwks(RS256="r", ES256="e", EdDSA="d")
    guard = jwt_guard(tmp_path, public=public)
    for headers in ({}, {"kid": algorithm[0].lower() if algorithm != "EdDSA" else "d"}):
        token = jwt.encode(claims(), KEYS[algorithm], algorithm, headers)
        who = guard.identify(bearer(token))
        assert (who.kind, who.name) == ("jwt", "alice")
        assert who.may_know("photos1")
        assert guard.identify(bearer(token)) is who, "it was remembered"
    if form == "jwks":
        with pytest.raises(Unauthenticated):
            guard.identify(bearer(jwt.encode(claims(), KEYS[algorithm], algorithm, {"kid": "other"})))


def test_a_token_may_have_a_share_of_its_own(tmp_path: Path) -> None:
    guard = jwt_guard(tmp_path, secret=True)
    gold = claims(twinsight_share={"calls_per_s": 20, "max_collections": 3})
    assert guard.identify(bearer(jwt.encode(gold, SECRET, "HS256"))).share == Share(calls_per_s=20, max_collections=3)
    assert guard.identify(bearer(jwt.encode(claims(), SECRET, "HS256"))).share == Share()


def test_while_a_secret_is_replaced_tokens_of_both_are_good() -> None:
    old, new = "o" * 32, "n" * 40

    def are_good(content: bytes, *secrets: str | bytes) -> list[bool]:
        found = [one.key for one in secret_key(content)]
        return [(one.encode() if isinstance(one, str) else one) in found for one in secrets]

    assert are_good(f"{new}\n{old}\n".encode(), old, new, "x" * 32) == [True, True, False]
    assert are_good(f"{new}\r\n\r\n{old}".encode(), old, new) == [True, True]
    for lengths in ((64, 24), (64, 64, 8), (76, 30)):  # of 64, 99 and 78 bytes, as `base64` prints it
        printed = "\n".join("w" * length for length in lengths)
        assert are_good(printed.encode() + b"\n", printed, "w" * 64) == [True, False]
    full = f"{'a' * 64}\n{'b' * 64}\n"  # two secrets as `openssl rand -base64 48` prints them, or one that was wrapped
    assert are_good(full.encode(), full.strip(), "a" * 64, "b" * 64) == [True, True, True]
    long = "\n".join(["l" * 64] * 17)
    assert are_good(long.encode(), long, "l" * 64) == [True, False]
    words = f"{'ä' * 20}\n{'ö' * 20}"
    assert are_good(words.encode(), "ä" * 20, "ö" * 20) == [True, True]
    binary = b"\x00\n" + bytes(range(128, 168))
    assert are_good(binary, binary, binary[2:]) == [True, False]
    for short in ("s" * 31, f"{old}\nshort", f"short\n{old}"):
        with pytest.raises(StartupError, match="each must have at least 32"):
            secret_key(short.encode())
    with pytest.raises(StartupError, match="there are 17 secrets; at most 16 are allowed"):
        secret_key(b"\n".join([old.encode()] * 17))


def test_a_key_is_known_by_its_digest_and_a_token_once_it_was_checked(tmp_path: Path, file: Path) -> None:
    key, token = add(file, "phone", "read"), jwt.encode(claims(), SECRET, "HS256")
    keys, tokens = Guard(keys=file), jwt_guard(tmp_path, secret=True)
    assert Guard().knows([])
    assert keys.knows(bearer(key))
    assert not tokens.knows(bearer(token))
    tokens.identify(bearer(token))
    assert tokens.knows(bearer(token))
    for guard in (keys, tokens):
        assert not guard.knows([])
        assert not guard.knows(bearer(new_key()))
        assert not guard.knows(bearer("a.b.c"))


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://other"},
        {"aud": "other"},
        pytest.param({"exp": datetime.now(UTC) - timedelta(minutes=1)}, id="expired"),
        pytest.param({"nbf": datetime.now(UTC) + timedelta(days=1)}, id="early"),
        {"iss": None},
        {"aud": None},
        {"exp": None},
        {"exp": 10**400},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "a\u009b31mb"},  # colours on some terminals
        {"sub": "a\u202eb"},  # what follows is shown from right to left
        {"twinsight_grants": None},
        {"twinsight_grants": []},
        {"twinsight_grants": [{"rights": ["read"]}]},
        {"twinsight_grants": "read"},
        {"twinsight_share": {"max_calls": -1}},
        {"twinsight_share": {"calls": 1}},
        {"twinsight_share": []},
    ],
    ids=str,
)
def test_a_token_of_which_anything_is_wrong_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    guard = jwt_guard(tmp_path, secret=True)
    assert guard.identify(bearer(jwt.encode(claims(), SECRET, "HS256"))).name == "alice"
    with pytest.raises(Unauthenticated):
        guard.identify(bearer(jwt.encode(claims(**change), SECRET, "HS256")))


def test_the_log_is_told_what_the_caller_is_not(tmp_path: Path, file: Path) -> None:
    now = datetime.now(UTC)
    old = add(file, "old", "read", expires=now - timedelta(hours=1))
    keys, tokens = Guard(keys=file), jwt_guard(tmp_path, secret=True)

    def why(guard: Guard, *metadata: tuple[str, str | bytes]) -> str:
        with pytest.raises(Unauthenticated) as refused:
            guard.identify(metadata)
        assert isinstance(refused.value.__cause__, Unproven)
        return str(refused.value.__cause__)

    def signed(secret: str = SECRET, **change: object) -> list[tuple[str, str | bytes]]:
        return bearer(jwt.encode(claims(**change), secret, "HS256"))

    assert why(keys) == "no token"
    assert why(keys, *bearer(old), *bearer(old)) == "more than one token"
    assert why(keys, *bearer(new_key())) == "no such key"
    assert why(keys, *bearer(old)).startswith("key:old expired at 20")
    assert why(keys, *signed()) == "not an API key, and the server accepts no JWT"
    assert why(tokens, *bearer(old)) == "an API key, but the server accepts none"
    assert why(tokens, *bearer("a.b.c")) == "not a JWT"
    assert why(tokens, *signed(SECRET * 2)) == "JWT: signed by none of the keys"
    assert why(tokens, *signed(exp=now - timedelta(minutes=1))) == "JWT: Signature has expired"
    assert "Audience" in why(tokens, *signed(aud="other"))
    assert why(tokens, *signed(sub="a\nb")).startswith("JWT: `sub` must be")


@pytest.mark.parametrize(
    "other",
    [
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "kid": "a"},
        {"kty": "EC", "crv": "P-384", "x": "AAAA", "y": "AAAA", "kid": "b"},
        {"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "c"},
        public_jwk(KEYS["RS256"]) | {"alg": "PS256", "kid": "d"},
        public_jwk(KEYS["ES256"]) | {"use": "enc", "kid": "e"},
    ],
    ids=["kind", "curve", "curve of Edwards", "algorithm", "use"],
)
def test_keys_of_a_set_that_are_for_other_tokens_are_passed_over(tmp_path: Path, other: dict[str, str]) -> None:
    """The issuer has them beside ours, and rotates all at once (RFC 7517, section 5)."""
    kept = public_jwk(KEYS["EdDSA"]) | {"kid": "ours"}
    guard = jwt_guard(tmp_path, public=json.dumps({"keys": [other, kept]}).encode())
    token = jwt.encode(claims(), KEYS["EdDSA"], "EdDSA", {"kid": "ours"})
    assert guard.identify(bearer(token)).kind == "jwt"
    for name, algorithm in {"b": "ES256", "d": "RS256", "e": "ES256"}.items():
        with pytest.raises(Unauthenticated):
            guard.identify(bearer(jwt.encode(claims(), KEYS[algorithm], algorithm, {"kid": name})))


def test_the_algorithm_is_the_keys_and_not_the_tokens(tmp_path: Path) -> None:
    guard = jwt_guard(tmp_path, secret=True, public=pem(KEYS["RS256"]))
    unsigned = jwt.encode(claims(), "", "none")
    longer = jwt.encode(claims(), SECRET * 2, "HS512")
    other = jwt.encode(claims(), KEYS["RS256"], "PS256")
    # The public key, which everybody may have, taken for a secret.
    header, body, _ = jwt.encode(claims(), SECRET, "HS256").split(".")
    mac = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        f"{header}.{body}".encode(), pem(KEYS["RS256"])
    )
    confused = f"{header}.{body}.{jwt.utils.base64url_encode(mac).decode()}"
    for token in (unsigned, longer, other, confused):
        with pytest.raises(Unauthenticated):
            guard.identify(bearer(token))


def test_a_remembered_token_ends_with_its_expiry_and_with_its_key(tmp_path: Path) -> None:
    now = [datetime.now(UTC).timestamp()]
    guard = jwt_guard(tmp_path, secret=True, clock=lambda: now[0])
    token = jwt.encode(claims(exp=int(now[0]) - 5), SECRET, "HS256")
    assert guard.identify(bearer(token)).name == "alice", "clocks may differ by 10 s"
    now[0] += 20
    # Nothing is remembered past its expiry: it is checked again, by the clock that checks.
    checked = guard._verifiers
    assert checked is not None
    assert all(one.until <= now[0] for one in checked.current()._remembered.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"short", "the secret has 5 bytes; each must have at least 32"),
        (pem(KEYS["ES256"]), "the secret is a PEM file"),
    ],
)
def test_a_secret_that_is_none_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(StartupError, match=said):
        Guard(tokens=JwtSettings(tmp_path / "s", None, "i", "a"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"nothing", "there are 0 public keys; there must be 1 to 16"),
        (b'{"keys": [{"kty": "oct", "k": "AAAA"}]}', "a private key; the server needs"),
        (b'{"keys": [{"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}]}', "there are 0 public keys"),
        (pem(KEYS["EdDSA"]) + pem(KEYS["ES256"])[:60], "something other than complete public keys"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "keys must be RSA, P-256 or Ed25519"),
        (pem(rsa.generate_private_key(65537, 1024)), "an RSA key of 1024 bits"),  # noqa: S505 - it must be refused
        (
            KEYS["EdDSA"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            "a private key; the server needs, and should have, only the public one",
        ),
    ],
    ids=["nothing", "symmetric", "another kind alone", "cut", "another curve", "short", "private"],
)
def test_public_keys_that_are_none_are_told(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(StartupError, match=said):
        jwt_guard(tmp_path, public=content)
