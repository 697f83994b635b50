from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image as Pillow

from twinsight_core.errors import TrainingError
from twinsight_core.images import Preprocessing
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.training import classifier, siamese
from twinsight_core.training.classifier import ClassifierTraining
from twinsight_core.training.copies import (
    counted_once,
    first_copies,
    in_order,
    in_two_classes,
    tell_copies,
    without_copies,
)
from twinsight_core.training.data import LabelledImages
from twinsight_core.training.detector_parts import detector_parts
from twinsight_core.training.pairs import PairList, one_identity
from twinsight_core.training.parts import Parts
from twinsight_core.training.siamese import SiameseTraining

SIZE = Preprocessing(height_px=8, width_px=8)
BACKBONE = ResNetConfig(depths=(1,), widths=(4,), stem="small")
LABELS = ClassifierTraining(network=ClassifierConfig(backbone=BACKBONE, classes=2), preprocessing=SIZE)


def pictures(classes: int, numbers: list[list[int]]) -> LabelledImages:
    """Pictures of classes by the numbers of what is in them: equal numbers are copies."""
    drawn = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3), np.uint8)
    named = tuple(f"class{label}" for label in range(classes))
    return LabelledImages(
        images=drawn[np.concatenate([np.array(one, int) for one in numbers])],
        labels=np.repeat(np.arange(classes, dtype=np.int32), [len(one) for one in numbers]),
        classes=named,
        files=tuple(f"{name}/{place}.png" for name, of in zip(named, numbers, strict=True) for place in range(len(of))),
    )


def none_in_two(parts: Parts, firsts: np.ndarray) -> bool:
    seen = [set(firsts[rows].tolist()) for rows in (parts.train, parts.validation, parts.test)]
    return all(not one & other for one, other in combinations(seen, 2))


def test_copies_are_known_by_all_of_their_pixels() -> None:
    images = np.zeros((5, 4, 4, 3), np.uint8)
    images[1, 0, 0, 0] = 1  # its middle is that of the others
    images[3] = images[1]
    images[4] = 9
    assert first_copies(images).tolist() == [0, 1, 0, 1, 4]
    assert first_copies(images[:0]).tolist() == []


def test_copies_stand_beside_one_another_wherever_the_first_is() -> None:
    files, firsts = [f"{n}.png" for n in range(40)], np.arange(40) % 10
    order = np.array(in_order(files, firsts))
    assert (np.diff(firsts[order]) != 0).sum() == 9
    back = in_order(files[::-1], firsts[::-1])
    assert [files[row] for row in order] == [files[::-1][row] for row in back]


def test_copies_of_a_class_are_in_one_part_of_about_its_share() -> None:
    data = pictures(2, [[*range(80)] * 5, [*range(100, 130)]])
    parts = classifier.split(data, LABELS)
    firsts = first_copies(data.images)
    assert none_in_two(parts, firsts)
    assert [len(rows) for rows in (parts.train, parts.validation, parts.test)] == [280 + 21, 40 + 3, 80 + 6]


def test_a_picture_in_two_classes_is_told_of_and_never_measured(caplog: pytest.LogCaptureFixture) -> None:
    data = pictures(2, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 0, 0]])
    parts = classifier.split(data, LABELS)
    shared = np.flatnonzero(in_two_classes(data.labels, first_copies(data.images)))
    assert shared.tolist() == [0, 9, 10]
    assert set(shared.tolist()) <= set(parts.train.tolist())
    for rows in (parts.validation, parts.test):
        assert set(data.labels[rows].tolist()) == {0, 1}
    with caplog.at_level("INFO", "twinsight_core"):
        tell_copies(data)
    assert caplog.messages == [
        "2 pictures are exact copies of others; copies are held out together",
        "the same picture is in several classes: class0/0.png, class1/4.png, class1/5.png",
    ]
    caplog.clear()
    tell_copies(pictures(2, [[0, 1], [2, 3]]))
    assert not caplog.messages


@pytest.mark.parametrize(("of", "count"), [([0, 0, 0, 0, 1], 2), ([9, 9, 9, 8, 0], 2)])
def test_a_class_of_copies_alone_is_refused(of: list[int], count: int) -> None:
    with pytest.raises(TrainingError, match=rf"`class0` has 5 pictures \(copies.*counted once: {count}\); it needs"):
        classifier.split(pictures(2, [of, [*range(3, 10)]]), LABELS)


def test_of_held_out_classes_no_picture_has_a_copy_among_those_trained_on() -> None:
    how = SiameseTraining(
        network=SiameseConfig(backbone=BACKBONE, dimension=4), preprocessing=SIZE, validation=0.2, test=0.2
    )
    apart = pictures(20, [[*range(5 * one, 5 * one + 5)] for one in range(20)])
    whole = siamese.split(apart, how)
    assert len(whole.validation) == len(whole.test) == 20
    # Of each class the last is one and the same picture.
    images = apart.images.copy()
    images[4::5] = images[4]
    data = replace(apart, images=images)
    parts = siamese.split(data, how)
    assert none_in_two(parts, first_copies(images))
    assert [len(rows) for rows in (parts.train, parts.validation, parts.test)] == [60, 16, 16]


def test_of_held_out_classes_no_picture_is_there_twice() -> None:
    how = SiameseTraining(
        network=SiameseConfig(backbone=BACKBONE, dimension=4), preprocessing=SIZE, validation=0.2, test=0.2
    )
    twice = pictures(20, [[*range(5 * one, 5 * one + 5)] * 2 for one in range(20)])
    parts = siamese.split(twice, how)
    assert [len(rows) for rows in (parts.train, parts.validation, parts.test)] == [120, 20, 20]
    firsts = first_copies(twice.images)
    for rows in (parts.validation, parts.test):
        assert len(np.unique(firsts[rows])) == len(rows)


def test_copies_of_one_class_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    data = pictures(2, [[0, 1, 0, 2, 0], [3, 1, 3]])
    with caplog.at_level("INFO", "twinsight_core"):
        left, copies = without_copies(data)
    assert copies == 3
    assert left.files == ("class0/0.png", "class0/1.png", "class0/3.png", "class1/0.png", "class1/1.png")
    assert left.labels.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(left.images, data.images[[0, 1, 3, 5, 6]])
    assert caplog.messages == [
        "4 pictures are exact copies of others; those of one class are left out",
        "the same picture is in several classes: class0/1.png, class1/1.png",
    ]
    assert without_copies(left) == (left, 0)


@pytest.fixture
def coco(tmp_path: Path) -> Callable[[list[int]], Path]:
    """Writes pictures with a thing each, in COCO's format; equal numbers are copies."""

    def write(numbers: list[int]) -> Path:
        for place, number in enumerate(numbers):
            Pillow.new("RGB", (64, 64), (number, 10, 10)).save(tmp_path / f"{place}.png")
        images = [{"id": one, "file_name": f"{one}.png", "width": 64, "height": 64} for one in range(len(numbers))]
        things = [{"id": one, "image_id": one, "category_id": 1, "bbox": [8, 8, 20, 20]} for one in range(len(numbers))]
        content = {"images": images, "annotations": things, "categories": [{"id": 1, "name": "cat"}]}
        (tmp_path / "boxes.json").write_text(json.dumps(content))
        return tmp_path

    return write


def test_copies_with_boxes_are_in_one_part(coco: Callable[[list[int]], Path]) -> None:
    folder = coco([*range(20)] * 3)
    parts = detector_parts(folder, folder / "boxes.json", preprocessing=SIZE, skip_bad=False)
    colours = [set(one.images[:, 0, 0, 0].tolist()) for one in (parts.train, parts.validation, parts.test)]
    assert [len(one) for one in colours] == [14, 2, 4]
    assert len(set.union(*colours)) == 20
    folder = coco([7] * 6)
    with pytest.raises(TrainingError, match=r"There are 6 pictures \(copies counted once: 1\); some must be held"):
        detector_parts(folder, folder / "boxes.json", preprocessing=SIZE, skip_bad=False)


def test_of_vocs_lists_copies_of_what_is_scored_are_not_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    for place in range(8):
        file = io.BytesIO()
        Pillow.new("RGB", (64, 64), (place % 6, 10, 10)).save(file, "PNG")
        (tmp_path / "JPEGImages" / f"{place}.png").write_bytes(file.getvalue())
        box = "<xmin>8</xmin><ymin>8</ymin><xmax>24</xmax><ymax>24</ymax>"
        thing = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
        (tmp_path / "Annotations" / f"{place}.xml").write_text(f"<annotation>{thing}</annotation>")
    for name, listed in (("train", "012345"), ("val", "67")):
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(listed))
    parts = detector_parts(tmp_path, None, preprocessing=SIZE, skip_bad=False)
    assert len(parts.train) + len(parts.validation) == 4
    assert len(parts.test) == 2
    assert "0.png: a copy of JPEGImages/6.png, for the scores" in caplog.text


def test_pairs_of_copies_count_once() -> None:
    # The second picture is a copy of the first.
    files = ("a.jpg", "copy.jpg", "b.jpg", "c.jpg")
    pairs = PairList(
        files,
        left=np.array([0, 1, 3]),
        right=np.array([2, 2, 1]),
        same=np.array([True, True, False]),
        folds=np.arange(3),
        repeats=1,
        firsts=np.array([0, 0, 2, 3]),
    )
    once = counted_once(pairs)
    assert (pairs.repeats, once.repeats, once.files) == (1, 2, files)
    assert [once.left.tolist(), once.right.tolist(), once.same.tolist()] == [[0, 3], [2, 1], [True, False]]
    assert once.folds is not None
    assert once.folds.tolist() == [0, 2]
    contrary = replace(pairs, same=np.array([True, False, False]))
    with pytest.raises(TrainingError) as raised:
        counted_once(contrary)
    assert raised.value.lines == (
        "The pairs contradict each other:",
        "  `a.jpg` and `b.jpg` are listed as the same, and exact copies of them, `copy.jpg` and `b.jpg`, are not.",
    )


def test_what_a_pair_that_counts_as_a_copy_says_of_folders_still_holds() -> None:
    # b/1 is a copy of a/1, and unlike b/2, so that b is not one identity.
    pairs = PairList(
        files=("a/1", "a/2", "b/1", "b/2"),
        left=np.array([0, 2]),
        right=np.array([3, 3]),
        same=np.array([False, False]),
        folds=None,
        firsts=np.array([0, 1, 0, 3]),
    )
    once = counted_once(pairs)
    assert once.left.tolist() == [0]
    assert one_identity(once) == one_identity(pairs) == {PurePosixPath("a")}
