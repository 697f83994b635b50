"""The pictures that a command line names: files as they are, folders by the picture files under them.

What is not there, or can't be read, is no wrong command line: it fails alone.
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
    """What a command is to work on.

    Attributes:
        files: pictures, as a person is told of them: folder by folder, in the order given.
        folders: of each of them the folder that was named; None of a file that was named itself.
        errors: by its place, what can't be looked at at all.
    """

    files: tuple[Path, ...]
    folders: tuple[Path | None, ...]
    errors: dict[int, ItemError]


def pictures_given(paths: Sequence[Path]) -> Given:
    """Returns the pictures that `paths` name; a folder is searched as `twinsight index` does it."""
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
            write_error(f"passed over under {path}: {passed_over}")
        files += found
        folders += [path] * len(found)
    return Given(tuple(files), tuple(folders), errors)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # nobody may look: it is told of as a file that can't be read
        return False
