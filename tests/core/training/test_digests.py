import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from twinsight_core.images import Preprocessing
from twinsight_core.training.boxes import BoxedImages
from twinsight_core.training.data import read_class_folders
from twinsight_core.training.digests import boxed_digests, labelled_digests, pictures_digest

SIZE = Preprocessing(height_px=8, width_px=8)


def test_a_copied_folder_is_the_same_data_and_an_edited_picture_is_not(
    write_drawings: Callable[..., None], tmp_path: Path
) -> None:
    write_drawings(tmp_path / "set.zip", groups=1, classes=3, pictures=2)
    zipped = read_class_folders(tmp_path / "set.zip", preprocessing=SIZE)
    with zipfile.ZipFile(tmp_path / "set.zip") as archive:
        archive.extractall(tmp_path / "set")
    shutil.copytree(tmp_path / "set", tmp_path / "copy", copy_function=shutil.copyfile)  # times are not copied

    def digests(name: str) -> dict[str, str]:
        return labelled_digests(read_class_folders(tmp_path / name, preprocessing=SIZE))

    before = labelled_digests(zipped)
    assert digests("set") == digests("copy") == before
    shutil.copyfile(tmp_path / "set/class00/0.png", tmp_path / "copy/class01/1.png")
    edited = digests("copy")
    assert edited["classes"] == before["classes"]
    assert edited["pictures"] != before["pictures"]


def test_classes_of_other_names_or_in_another_order_are_other_classes(
    write_drawings: Callable[..., None], tmp_path: Path
) -> None:
    write_drawings(tmp_path / "set.zip", groups=1, classes=3, pictures=2)
    data = read_class_folders(tmp_path / "set.zip", preprocessing=SIZE)
    names = ("a", "b", "c"), ("b", "a", "c")
    digests = [labelled_digests(data), *(labelled_digests(replace(data, classes=one)) for one in names)]
    assert len({one["classes"] for one in digests}) == 3
    assert len({one["pictures"] for one in digests}) == 1


def test_many_pictures_count_to_the_last() -> None:
    images = np.zeros((600, 2, 2, 3), np.uint8)
    files = [f"{number}.png" for number in range(600)]
    before = pictures_digest(files, images)
    images[599, 1, 1, 2] = 1
    assert pictures_digest(files, images) != before


def boxed() -> BoxedImages:
    return BoxedImages(
        images=np.zeros((2, 8, 8, 3), np.uint8),
        boxes=np.tile(np.array([0.1, 0.1, 0.5, 0.5], np.float32), (2, 1, 1)),
        labels=np.zeros((2, 1), np.int32),
        valid=np.ones((2, 1), np.bool_),
        ignored=np.zeros((2, 1), np.bool_),
        sizes=np.full((2, 2), 8, np.int32),
        classes=("cat", "dog"),
        files=("a.png", "b.png"),
    )


def test_of_a_detectors_data_it_is_told_what_is_other() -> None:
    one = boxed()
    changes = {
        "pictures": [replace(one, images=one.images + 1), replace(one, files=("a.png", "c.png"))],
        "classes": [replace(one, classes=("dog", "cat"))],
        "boxes": [
            replace(one, boxes=one.boxes * 0.5),
            replace(one, labels=one.labels + 1),
            replace(one, valid=~one.valid),
            replace(one, ignored=~one.ignored),
        ],
    }
    before = boxed_digests([one, one])
    for name, of_name in changes.items():
        for changed in of_name:
            digests = boxed_digests([one, changed])
            assert [key for key in digests if digests[key] != before[key]] == [name]
