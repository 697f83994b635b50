"""Chooses the collections to back up or restore."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable, Sequence

from twinsight_core.errors import NotFound

_log = logging.getLogger("twinsight.collection")


def chosen(existing: Iterable[str], *, only: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Returns the chosen ids in their existing order.

    Args:
        existing: all ids.
        only: ids and patterns of ids (`*`, `?`, `[...]`); empty for all.
        exclude: ids and patterns to leave out. One that matches nothing is only logged: a backup that excludes a
            collection keeps working when that is deleted, and a typo is noticed.

    Raises:
        NotFound: one of `only` matches nothing, or none is left.
    """
    names = list(existing)
    for pattern in only:
        if not any(_meets(name, pattern) for name in names):
            raise NotFound.among("Collection", pattern, names, reason="COLLECTION_NOT_FOUND")
    for pattern in exclude:
        if not any(_meets(name, pattern) for name in names):
            _log.warning("no collection matches the exclusion `%s`", pattern)
    left = [
        name
        for name in names
        if (not only or any(_meets(name, pattern) for pattern in only))
        and not any(_meets(name, pattern) for pattern in exclude)
    ]
    if names and not left:
        raise NotFound("No collection is left after the exclusions.", reason="COLLECTION_NOT_FOUND")
    return left


def _meets(name: str, pattern: str) -> bool:
    # Literally as well: a folder that merely contains a collection may have any name.
    return name == pattern or fnmatch.fnmatchcase(name, pattern)
