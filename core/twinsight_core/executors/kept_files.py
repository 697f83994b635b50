"""Files that can be made anew, each with its digest: one that a failing disk has damaged counts as missing."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from twinsight_core.whole_files import write_whole

_LOG = logging.getLogger(__name__)
_DIGEST_BYTES = hashlib.sha256().digest_size


def read_kept(file: Path) -> bytes | None:
    """Returns the content that `keep` wrote; None where there is no such file, or it is damaged."""
    try:
        kept = file.read_bytes()
    except OSError:
        return None
    content = kept[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != kept[:_DIGEST_BYTES]:
        _LOG.warning("%s is damaged; what it held is made anew", file)
        return None
    return content


def keep(file: Path, content: bytes) -> bool:
    """Writes a file that `read_kept` reads; see `put`."""
    return put(file, hashlib.sha256(content).digest() + content)


def put(file: Path, content: bytes) -> bool:
    """Writes a file that this account alone may read, and its folder.

    Returns:
        Whether it could. What a full disk or one that can't be written to does not take is made anew at each start, and
        the log says so: it keeps nothing from being served.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(file, content, mode=0o600)
    except OSError as error:
        _LOG.warning("%s can't be kept (%s) and will be made anew", file, error.strerror)
        return False
    return True
