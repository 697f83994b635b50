"""The pictures that a command line names: files, and folders for the picture files under them.

A path that is missing or can't be read is not a usage error: it fails alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from twinsight_client.cli.output import write_error
from twinsight_client.cli.pictures import find_pictures, passed_over_said
from twinsight_client.errors import InvalidArgument
from twinsight_client.results import ItemError

FILE_OR_FOLDER = click.Path(readable=False, path_type=Path)


@dataclass(frozen=True)
class Given:
    """The pictures to process.

    Attributes:
        files: their paths as printed, folder by folder, in the order given.
        folders: for each of them, the folder that was named; None for a file that was named itself.
        errors: errors of those that can't be accessed, by position.
    """

    files: tuple[Path, ...]
    folders: tuple[Path | None, ...]
    errors: dict[int, ItemError]


def pictures_given(paths: Sequence[Path]) -> Given:
    """Returns the pictures that `paths` name; searches folders as `twinsight index` does."""
    files: list[Path] = []
    folders: list[Path | None] = []
    errors: dict[int, ItemError] = {}
    for path in paths:
        if not _is_folder(path):
            files.append(path)
            folders.append(None)
            continue
        listing = find_pictures(path)
        found = [path / picture.file for picture in listing.pictures]
        for one in listing.unreadable:
            place = len(files) + len(found)
            errors[place] = ItemError(place, InvalidArgument.code, one.reason, one.message)
            found.append(path / one.file)
        if not found:
            write_error(f"No JPEG, PNG or WebP files under {path}.")
        if passed_over := passed_over_said(listing.passed_over, listing.linked_folders):
            write_error(f"ignored under {path}: {passed_over}")
        files += found
        folders += [path] * len(found)
    return Given(tuple(files), tuple(folders), errors)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # not accessible: reported as a file that can't be read
        return False
