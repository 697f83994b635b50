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


def keep(file: Path, content: bytes) -> None:
    """Writes a file that this account alone may read.

    Raises:
        OSError: it can't be written.
    """
    write_whole(file, hashlib.sha256(content).digest() + content, mode=0o600)
