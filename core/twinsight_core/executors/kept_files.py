"""Files that can be re-created, each with its digest: one that a failing disk has damaged counts as missing."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from twinsight_core.host.private_folders import make_private
from twinsight_core.host.whole_files import write_whole

_LOG = logging.getLogger(__name__)
UNUSED_DAYS = 90
"""Longer than most servers run, so that a restart finds its files."""
_DIGEST_BYTES = hashlib.sha256().digest_size


def read_kept(file: Path) -> bytes | None:
    """Returns the content that `keep` wrote; None if there is no such file, or it is damaged."""
    try:
        kept = file.read_bytes()
    except OSError:
        return None
    touch(file)
    content = kept[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != kept[:_DIGEST_BYTES]:
        _LOG.warning("%s is damaged and will be re-created", file)
        return None
    return content


def keep(file: Path, content: bytes) -> bool:
    """Writes a file that `read_kept` reads; see `put`."""
    return put(file, hashlib.sha256(content).digest() + content)


def put(file: Path, content: bytes) -> bool:
    """Writes a file that only this account may read, and its folder.

    Returns:
        Whether it could. A file that a full or read-only disk does not take is re-created at each start, which the log
        says; everything is served all the same.
    """
    try:
        make_private(file.parent)
        write_whole(file, content, mode=0o600)
    except OSError as error:
        _LOG.warning("can't keep %s (%s); it will be re-created", file, error.strerror)
        return False
    return True


def touch(file: Path) -> None:
    """Marks a file as used for `forget_unused`, if this account may."""
    with suppress(OSError):
        os.utime(file)


def forget_unused(folder: Path) -> None:
    """Deletes the files of a folder that nothing has used for UNUSED_DAYS: of models no longer served, or old versions.

    Call it once everything served has been read. Another server that uses such a file has read it, and re-creates it
    when it starts; files that can't be deleted stay.
    """
    oldest = time.time() - UNUSED_DAYS * 24 * 3600
    with suppress(OSError):
        for file in folder.iterdir():
            with suppress(OSError):
                found = file.lstat()
                if stat.S_ISREG(found.st_mode) and max(found.st_atime, found.st_mtime) < oldest:
                    file.unlink()


def forget_others(kept: Path, pattern: str) -> None:
    """Deletes the files beside one that match a pattern and have another stem; files that can't be deleted stay."""
    with suppress(OSError):
        for other in kept.parent.glob(pattern):
            if other.stem != kept.stem:
                other.unlink(missing_ok=True)
