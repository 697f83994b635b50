"""Which collections a backup is made of, or restored from."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable, Sequence

from twinsight_core.errors import NotFound

_log = logging.getLogger("twinsight.collection")


def chosen(existing: Iterable[str], *, only: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Returns the ids that are chosen, in the order in which they are there.

    Args:
        existing: all ids.
        only: ids and patterns of ids (`*`, `?`, `[...]`); none: all.
        exclude: ids and patterns of those that are left out all the same. It is logged where one meets none: a backup
            that leaves a collection out goes on when that is deleted, and a slip of the pen is seen.

    Raises:
        NotFound: there is none that one of `only` means, or none is left.
    """
    names = list(existing)
    for pattern in only:
        if not any(_meets(name, pattern) for name in names):
            raise NotFound.among("Collection", pattern, names, reason="COLLECTION_NOT_FOUND")
    for pattern in exclude:
        if not any(_meets(name, pattern) for name in names):
            _log.warning("No collection `%s` is there to be left out.", pattern)
    left = [
        name
        for name in names
        if (not only or any(_meets(name, pattern) for pattern in only))
        and not any(_meets(name, pattern) for pattern in exclude)
    ]
    if names and not left:
        raise NotFound("Of the collections that are there none is left.", reason="COLLECTION_NOT_FOUND")
    return left


def _meets(name: str, pattern: str) -> bool:
    # As it is written, too: a folder that only holds a collection may have any name.
    return name == pattern or fnmatch.fnmatchcase(name, pattern)
