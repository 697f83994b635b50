"""What the folders of pictures mean: their classes, and whether the data comes in parts.

A class is named after the path of its folder, without the prefix that all paths share and without the name of a leading
part: `train/cat/1.jpg` and `val/dog/2.jpg` are of the classes `cat` and `dog`, `Greek/alpha/1.png` is of `Greek/alpha`,
and `visa/valid/1.jpg` of `visa/valid`. Folders whose names differ only in their Unicode form are one class
(`composed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from twinsight_core.errors import TrainingError
from twinsight_core.training.files import composed

TRAIN_NAMES = frozenset({"train", "training"})
SPLIT_NAMES = TRAIN_NAMES | {"val", "valid", "validation", "test", "testing"}


def classes_of(files: Sequence[str]) -> list[str]:
    """Returns the class of each picture, given the paths of all; see the module."""
    folders = [PurePosixPath(composed(file)).parent.parts for file in files]
    depth = min(len(parts) for parts in folders) - 1
    shared = next((n for n in range(depth) if len({parts[n] for parts in folders}) > 1), depth)
    kept = [parts[shared:] for parts in folders]
    # What holds pictures itself is a class, whatever its name.
    classes = {parts[0] for parts in kept if len(parts) == 1}
    parts_of_set = {parts[0] for parts in kept if parts[0].lower() in SPLIT_NAMES} - classes
    return ["/".join(parts[1:] if parts[0] in parts_of_set else parts) for parts in kept]


def check_one_part(path: Path, files: Sequence[str]) -> None:
    """Rejects data that comes in parts of its own, `train/` beside `val/` or `test/`, each with class folders.

    A folder beside `train/` that has some of its class folders is another part, whatever its name. The parts would be
    mixed, and training would see pictures that are meant for the scores.

    Args:
        path: the source.
        files: paths of the pictures in it.

    Raises:
        TrainingError: there are such parts; says what to do.
    """
    children: dict[str, dict[str, set[str]]] = {}
    for folder in {PurePosixPath(file).parent for file in files}:
        for one in [folder, *folder.parents][:-2]:  # what holds pictures itself is a class, whatever its name
            children.setdefault(str(one.parent.parent), {}).setdefault(one.parent.name, set()).add(one.name)
    for above, folders in sorted(children.items()):
        train = sorted(name for name in folders if name.lower() in TRAIN_NAMES)
        classes = {name for part in train for name in folders[part]}
        others = {
            name
            for name, held in folders.items()
            if name not in train and (name.lower() in SPLIT_NAMES or not classes.isdisjoint(held))
        }
        if train and others:
            names = {*train, *others}
            place = path if above == "." else path / above
            unpack = " of the unpacked zip" if path.is_file() else ""
            raise TrainingError(
                f"{place}: the data comes in parts ({', '.join(sorted(names))}), which would be mixed. Name one: train "
                f"with `--data {place / train[0]}`{unpack} (training holds out pictures itself), and measure on "
                "another with `twinsight evaluate`. If they are classes, rename the folders.",
                reason="DATA_IN_PARTS",
            )
