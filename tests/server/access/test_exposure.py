"""Files of secrets and keys that are open to others are told at the start, and taken all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog.testing

from twinsight_server.access.control import AccessControl
from twinsight_server.config import ServerConfig

SECRET = "others may read or change a secret: restrict it to its owner (chmod 600) or a group (chmod 640)"  # noqa: S105
TRUSTED = "others may change a file that decides who has access: remove their write permission (chmod go-w)"


def _warned(folder: Path, mode: int, setting: str) -> list[dict[str, object]]:
    files = {name: folder / name for name in ("api_keys", "jwt_secret", "tls_cert", "tls_key", "tls_client_ca")}
    for name, file in files.items():
        file.write_text('{"keys": {}}' if name == "api_keys" else "a secret of more than thirty-two bytes")
        file.chmod(mode if name == setting else 0o600)
    with structlog.testing.capture_logs() as lines:
        AccessControl.of(ServerConfig(jwt_issuer="me", jwt_audience="here", **files)).close()  # type: ignore[arg-type]
    return [dict(line) for line in lines]


@pytest.mark.parametrize(
    ("setting", "mode", "event"),
    [
        ("jwt_secret", 0o644, SECRET),
        ("jwt_secret", 0o620, SECRET),
        ("tls_key", 0o604, SECRET),
        ("api_keys", 0o666, TRUSTED),
        ("api_keys", 0o660, TRUSTED),
        ("tls_client_ca", 0o602, TRUSTED),
    ],
)
def test_a_file_that_is_open_to_others_is_told(tmp_path: Path, setting: str, mode: int, event: str) -> None:
    told = {"setting": setting, "file": str(tmp_path / setting), "mode": f"{mode:o}"}
    assert _warned(tmp_path, mode, setting) == [{"event": event, "log_level": "warning", **told}]


@pytest.mark.parametrize(
    ("setting", "mode"),
    [("jwt_secret", 0o640), ("tls_key", 0o440), ("api_keys", 0o644), ("tls_client_ca", 0o444), ("tls_cert", 0o666)],
)
def test_a_file_that_is_kept_from_others_is_not(tmp_path: Path, setting: str, mode: int) -> None:
    assert _warned(tmp_path, mode, setting) == []


@pytest.mark.parametrize(("mode", "is_told"), [(0o777, True), (0o1777, True), (0o775, False)])
def test_a_cache_that_anyone_may_change_is_told(tmp_path: Path, mode: int, is_told: bool) -> None:
    tmp_path.chmod(mode)
    with structlog.testing.capture_logs() as lines:
        AccessControl.of(ServerConfig(cache_dir=tmp_path)).close()
    assert [line["setting"] for line in lines] == ["cache_dir"] * is_told


def test_a_file_that_is_not_there_is_left_to_who_reads_it(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        AccessControl.of(ServerConfig(tls_cert=tmp_path / "none.pem", tls_key=tmp_path / "none.key")).close()
    assert lines == []
