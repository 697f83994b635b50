"""Warns at start of secrets, keys and the cache if their permissions are too open; they are used anyway."""

from __future__ import annotations

import stat
from pathlib import Path

import structlog

from twinsight_server.config import ServerConfig

log = structlog.stdlib.get_logger("twinsight.access")

# A group may read a secret, since containers mount secrets for a group. The same holds for a keyring, which is
# rejected if its permissions are more open than that.
_SECRET, _TRUSTED = 0o027, 0o022
_READABLE = "others may read or change a secret: restrict it to its owner (chmod 600) or a group (chmod 640)"
_CHANGEABLE = "others may change a file that decides who has access: remove their write permission (chmod go-w)"
_RUN = "others may change the cache, which is run as code: remove their write permission (chmod o-w)"
"""A group may: the volume of a container is often writable for one."""


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
    mode = _mode(config.cache)
    if mode & stat.S_IWOTH:  # also in a folder like /tmp: they could make the server's folders before it does
        log.warning(_RUN, setting="cache_dir", file=str(config.cache), mode=f"{mode:03o}")


def _mode(path: Path | None) -> int:
    """Returns a file's permissions; 0 if it can't be read, which its reader reports."""
    try:
        return stat.S_IMODE(path.stat().st_mode) if path else 0
    except OSError:
        return 0
