"""What the folders say that pictures lie in: their classes, and whether they come in parts.

A class is named by the path of its folder, without what all paths share and without the name of a part where that comes
first: `train/cat/1.jpg` and `val/dog/2.jpg` are of the classes `cat` and `dog`, `Greek/alpha/1.png` is of
`Greek/alpha`, and `visa/valid/1.jpg` of `visa/valid`. Folders whose names differ in their Unicode form alone are one
class (`composed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from twinsight_core.errors import TrainingError
from twinsight_core.training.files import composed

TRAIN_NAMES = frozenset({"train", "training"})
SPLIT_NAMES = TRAIN_NAMES | {"val", "valid", "validation", "test", "testing"}


def classes_of(files: Sequence[str]) -> list[str]:
    """Returns the class of each picture, by the paths of all; see the module."""
    folders = [PurePosixPath(composed(file)).parent.parts for file in files]
    depth = min(len(parts) for parts in folders) - 1
    shared = next((n for n in range(depth) if len({parts[n] for parts in folders}) > 1), depth)
    kept = [parts[shared:] for parts in folders]
    # What holds pictures itself is a class, whatever its name.
    classes = {parts[0] for parts in kept if len(parts) == 1}
    parts_of_set = {parts[0] for parts in kept if parts[0].lower() in SPLIT_NAMES} - classes
    return ["/".join(parts[1:] if parts[0] in parts_of_set else parts) for parts in kept]


def check_one_part(path: Path, files: Sequence[str]) -> None:
    """Refuses data that come with parts of their own, `train/` beside `val/` or `test/`, each with class folders.

    They would be mixed, and pictures that are meant for the scores trained on.

    Args:
        path: the source.
        files: paths of the pictures in it.

    Raises:
        TrainingError: there are such; says what to do.
    """
    parts: dict[str, set[str]] = {}
    for folder in {PurePosixPath(file).parent for file in files}:
        # What holds pictures itself is a class, whatever its name.
        for part in [folder, *folder.parents][1:]:
            if part.name.lower() in SPLIT_NAMES:
                parts.setdefault(str(part.parent), set()).add(part.name)
    for above, names in sorted(parts.items()):
        train = sorted(name for name in names if name.lower() in TRAIN_NAMES)
        if train and len(names) > len(train):
            place = path if above == "." else path / above
            unpack = " of the unpacked zip" if path.is_file() else ""
            raise TrainingError(
                f"{place}: the data come in parts ({', '.join(sorted(names))}), which would be mixed. Name one: train "
                f"on `--data {place / train[0]}`{unpack}, of which training holds out pictures itself, and measure on "
                "another by `twinsight evaluate`.",
                reason="DATA_IN_PARTS",
            )
