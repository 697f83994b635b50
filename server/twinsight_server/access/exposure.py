"""Warns at start of files of secrets and keys whose permissions are too open; they are used anyway."""

from __future__ import annotations

from pathlib import Path

import structlog

from twinsight_server.config import ServerConfig

log = structlog.stdlib.get_logger("twinsight.access")

# A group may read a secret, since containers mount secrets for a group. The same holds for a keyring, which is
# rejected if its permissions are more open than that.
_SECRET, _TRUSTED = 0o027, 0o022
_READABLE = "others may read or change a secret: restrict it to its owner (chmod 600) or a group (chmod 640)"
_CHANGEABLE = "others may change a file that decides who has access: remove their write permission (chmod go-w)"


def warn_of_exposed(config: ServerConfig) -> None:
    """Warns of secrets that others may read or change, and of keys and authorities that others may change."""
    for setting, path, barred in (
        ("jwt_secret", config.jwt_secret, _SECRET),
        ("tls_key", config.tls_key, _SECRET),
        ("api_keys", config.api_keys, _TRUSTED),
        ("jwt_public_keys", config.jwt_public_keys, _TRUSTED),
        ("tls_client_ca", config.tls_client_ca, _TRUSTED),
    ):
        mode = _mode(path)
        if mode & barred:
            what = _READABLE if barred == _SECRET else _CHANGEABLE
            log.warning(what, setting=setting, file=str(path), mode=f"{mode:03o}")


def _mode(path: Path | None) -> int:
    """Returns a file's permissions; 0 if it can't be read, which its reader reports."""
    try:
        return path.stat().st_mode & 0o777 if path else 0
    except OSError:
        return 0
