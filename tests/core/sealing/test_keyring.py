from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from twinsight_core.errors import StartupError
from twinsight_core.sealing.keyring import Keyring, change_keyring, new_key, read_keyring


def _written(path: Path, keyring: Keyring) -> Path:
    change_keyring(path, lambda _: keyring)
    return path


def _ids(keyring: Keyring) -> list[str]:
    return [key.id for key in keyring]


def test_a_keyring_that_was_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = new_key(), new_key()
    file = _written(tmp_path / "keyring.json", Keyring(first).with_primary(second))
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("KEYS", file.read_text())
    for source in (str(file), "env:KEYS"):
        keyring = read_keyring(source)
        assert keyring.primary == second
        assert list(keyring) == [second, first]
        assert keyring.get(first.id) == first
        assert keyring.get("0" * 16) is None
        assert _ids(keyring.without(first.id)) == [second.id]


def test_no_key_shows_its_secret() -> None:
    key = new_key()
    for shown in (repr(key), repr(Keyring(key)), str(key)):
        assert repr(key.secret) not in shown
        assert key.secret.hex() not in shown


@pytest.mark.parametrize(
    ("mode", "fine"), [(0o600, True), (0o400, True), (0o640, True), (0o644, False), (0o620, False)]
)
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int, *, fine: bool) -> None:
    file = _written(tmp_path / "keyring.json", Keyring(new_key()))
    file.chmod(mode)
    if fine:
        read_keyring(str(file))
        return
    with pytest.raises(StartupError, match=f"has the mode {mode:03o}: others may read or change it") as refused:
        read_keyring(str(file))
    assert refused.value.reason == "KEYRING_EXPOSED"


def test_what_is_no_keyring_is_told_without_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    secret = base64.b64encode(key.secret).decode()
    entry = {"secret": secret, "created": "2026-03-01T12:00:00+00:00"}
    cases: list[tuple[object, str]] = [
        ([secret], "it must be an object"),
        ({"primary": key.id}, "`keys` is missing"),
        ({"primary": "0" * 16, "keys": {key.id: entry}}, "`primary` must be the id of one of `keys`"),
        ({"primary": key.id, "keys": {"0" * 16: entry}}, f"the id of `keys.{'0' * 16}` does not match its secret"),
        (
            {"primary": key.id, "keys": {key.id: {**entry, "secret": secret[:-8]}}},
            ".secret` must be 32 bytes as Base64",
        ),
        ({"primary": key.id, "keys": {key.id: {**entry, "created": secret}}}, "`created` must be a time with a time"),
        ({"primary": key.id, "keys": {key.id: {**entry, "created": "2026-03-01"}}}, "must be a time with a time zone"),
        ({"primary": key.id, "keys": {key.id: {**entry, "more": 1}}}, "more` is unknown"),
    ]
    for content, said in cases:
        monkeypatch.setenv("KEYS", json.dumps(content))
        with pytest.raises(StartupError) as refused:
            read_keyring("env:KEYS")
        assert refused.value.message.startswith("The keyring `env:KEYS` is invalid: ")
        assert said in refused.value.message
        assert secret[:8] not in refused.value.message
    monkeypatch.setenv("KEYS", '{"primary": "a", "keys": {}, "keys": {}}')
    with pytest.raises(StartupError, match="The keyring `env:KEYS` is invalid: `keys` is there twice"):
        read_keyring("env:KEYS")
    monkeypatch.setenv("KEYS", '{"primary": ' + secret)
    with pytest.raises(StartupError, match="The keyring `env:KEYS` is invalid: it is not JSON"):
        read_keyring("env:KEYS")
    with pytest.raises(StartupError, match="The keyring `env:NONE` does not exist: `NONE` is not set"):
        read_keyring("env:NONE")
    with pytest.raises(StartupError, match=r"keyring\.json` can't be read: No such file or directory"):
        read_keyring(str(tmp_path / "keyring.json"))


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = _written(tmp_path / "keyring.json", Keyring(new_key()))
    before = file.read_bytes()

    def fail(_: Keyring | None) -> Keyring:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        change_keyring(file, fail)
    assert file.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["keyring.json"]


def test_a_change_keeps_the_mode_and_the_link_that_leads_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file = _written(tmp_path / "real" / "keyring.json", Keyring(new_key()))
    file.chmod(0o640)
    link = tmp_path / "keyring.json"
    link.symlink_to(file)
    added = new_key()
    change_keyring(link, lambda there: there.with_primary(added) if there else Keyring(added))
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
    assert read_keyring(str(file)).primary == added
    assert list((tmp_path / "real").iterdir()) == [file]
