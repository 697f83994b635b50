"""Makes folders that only this account may use."""

from __future__ import annotations

from pathlib import Path


def make_private(folder: Path, *, above: int = 0o700) -> None:
    """Makes a folder for this account alone and those above it that are missing, whatever the umask.

    `Path.mkdir` with `parents` gives its mode to the last one only, and whoever may write to one above can exchange it.

    Args:
        folder: the folder.
        above: permissions of those above it, less the umask.

    Raises:
        OSError: one can't be made.
    """
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for one in reversed(missing):
        one.mkdir(exist_ok=True, mode=0o700 if one is folder else above)
