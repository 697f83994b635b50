import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twinsight_core.errors import TrainingError
from twinsight_core.images import Preprocessing
from twinsight_core.training.boxes import BoxedImages
from twinsight_core.training.detector_parts import DetectorParts, anchor_sizes, detector_parts

SIZE = Preprocessing(height_px=32, width_px=32)
Box = tuple[str, float, float, float, float]
BOX: Box = ("cat", 8, 8, 24, 24)


def voc(folder: Path, lists: Mapping[str, str], marked: Mapping[str, Sequence[Box]]) -> Path:
    """Writes pictures of 64x64 with boxes; a list names its pictures by one letter each."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for name, boxes in marked.items():
        file = io.BytesIO()
        Image.new("RGB", (64, 64), (ord(name), 10, 10)).save(file, "PNG")
        (folder / "JPEGImages" / f"{name}.png").write_bytes(file.getvalue())
        objects = "".join(
            f"<object><name>{label}</name><bndbox><xmin>{x_min}</xmin><ymin>{y_min}</ymin><xmax>{x_max}</xmax>"
            f"<ymax>{y_max}</ymax></bndbox></object>"
            for label, x_min, y_min, x_max, y_max in boxes
        )
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    for name, pictures in lists.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(pictures))
    return folder


def parts(
    data: Path, *, annotations: Path | None = None, training_set: str | None = None, test_set: str | None = None
) -> DetectorParts:
    return detector_parts(
        data, annotations, preprocessing=SIZE, training_set=training_set, test_set=test_set, skip_bad=False
    )


def names(data: BoxedImages) -> str:
    return "".join(Path(file).stem for file in data.files)


ALL = dict.fromkeys("abcdefghij", (BOX,))


def test_a_class_that_a_part_lacks_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    marked: dict[str, Sequence[Box]] = {**ALL, **dict.fromkeys("abc", (("dog", 8, 8, 24, 24),))}
    data = voc(tmp_path / "set", {"train": "abcde", "val": "fgh"}, marked)
    parts(data)
    assert caplog.messages == ["no box of `dog` is in the pictures that are scored: it has no score"]
    caplog.clear()
    parts(voc(tmp_path / "both", {"train": "abcde", "val": "fgh"}, ALL))
    assert not caplog.messages


def test_train_and_val_are_read_where_both_are_there(tmp_path: Path) -> None:
    data = voc(tmp_path / "set", {"train": "abcde", "val": "fgh", "trainval": "abcdefgh"}, ALL)
    read = parts(data)
    assert sorted(names(read.train) + names(read.validation)) == list("abcde")
    assert len(read.validation) == 1
    assert names(read.test) == "fgh"
    for part in (read.train, read.validation, read.test):
        for file, image in zip(part.files, part.images, strict=True):
            assert image[0, 0].tolist() == [ord(Path(file).stem), 10, 10]


def test_without_the_lists_every_picture_is_in_one_part_whatever_its_order(tmp_path: Path) -> None:
    read = parts(voc(tmp_path / "set", {"train": "abc"}, ALL))
    assert sorted(names(read.train) + names(read.validation) + names(read.test)) == list("abcdefghij")
    assert (len(read.train), len(read.validation), len(read.test)) == (7, 1, 2)
    again = parts(voc(tmp_path / "again", {}, dict(reversed(ALL.items()))))
    assert names(again.test) == names(read.test)


def test_lists_that_share_pictures_are_refused(tmp_path: Path) -> None:
    data = voc(tmp_path / "set", {"train": "abcde", "val": "fgh", "trainval": "abcdefgh"}, ALL)
    message = (
        r"the lists `trainval` to train on and `val` for the scores must not share pictures; both have "
        r"JPEGImages/f\.png, JPEGImages/g\.png, JPEGImages/h\.png\.$"
    )
    for test_set in ("val", None):
        with pytest.raises(TrainingError, match=message):
            parts(data, training_set="trainval", test_set=test_set)
    # One picture under two names.
    (data / "Annotations" / "z.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    (data / "ImageSets" / "Main" / "val.txt").write_text("f\nz\n")
    with pytest.raises(TrainingError, match=r"both have JPEGImages/a\.png\.$"):
        parts(data)


def test_a_list_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    data = voc(tmp_path / "set", {"train": "abcde", "test": "fgh"}, ALL)
    assert names(parts(data, test_set="test").test) == "fgh"
    for training_set, test_set, missing in (
        ("trained", "test", "trained"),
        (None, "tset", "tset"),
        ("train", None, "val"),
    ):
        with pytest.raises(TrainingError, match=rf"there is no list `{missing}`; available: test, train\.$"):
            parts(data, training_set=training_set, test_set=test_set)


def test_coco_has_no_lists(tmp_path: Path) -> None:
    data = voc(tmp_path / "set", {}, ALL)
    file = tmp_path / "instances.json"
    content = {
        "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(ALL)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": number, "category_id": 1, "bbox": [8, 8, 16, 16]} for number in range(len(ALL))],
    }
    file.write_text(json.dumps(content))
    assert len(parts(data, annotations=file).test) == 2
    with pytest.raises(
        TrainingError, match=r"^Lists of pictures \(=val\) are Pascal VOC's; .*instances\.json is COCO's"
    ):
        parts(data, annotations=file, test_set="val")


@pytest.mark.parametrize(
    ("empty", "what"),
    [
        ("train", r"3 pictures to train on"),
        ("test", r"2 pictures for the scores"),
    ],
)
@pytest.mark.parametrize(("boxes", "held"), [((), 0), ((("cat", 8, 8, 9.9, 24),), None)])
def test_a_part_must_hold_a_box_that_can_be_seen(
    tmp_path: Path, empty: str, what: str, boxes: Sequence[Box], held: int | None
) -> None:
    lists = {"train": "abcd", "val": "ef"}
    chosen = parts(voc(tmp_path / "full", lists, dict.fromkeys("abcdef", (BOX,))))
    without = names({"train": chosen.train, "test": chosen.test}[empty])
    data = voc(tmp_path / "set", lists, dict.fromkeys("abcdef", (BOX,)) | dict.fromkeys(without, boxes))
    count = len(without) if held is None else held
    rule = rf"^The {what} must have a box of at least 1x1 px at the network's 32x32; they have {count} boxes, none"
    with pytest.raises(TrainingError, match=rule):
        parts(data)


def test_too_few_pictures_are_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^There are 2 pictures; some must be held out and some trained on\.$"):
        parts(voc(tmp_path / "set", {}, dict.fromkeys("ab", (BOX,))))


def boxed(sides: Sequence[float], labels: Sequence[int]) -> BoxedImages:
    """One picture with squares of these sides in pixels of SIZE."""
    boxes = np.zeros((1, len(sides), 4), np.float32)
    boxes[0, :, 2:] = np.array(sides, np.float32)[:, None] / 32
    return BoxedImages(
        images=np.zeros((1, 32, 32, 3), np.uint8),
        boxes=boxes,
        labels=np.array([labels], np.int32),
        valid=np.ones((1, len(sides)), np.bool_),
        ignored=np.zeros((1, len(sides)), np.bool_),
        sizes=np.array([[32, 32]], np.int32),
        classes=("cat", "dog"),
        files=("a.png",),
    )


def test_anchors_are_quantiles_in_which_classes_count_alike() -> None:
    assert anchor_sizes(boxed([8, 2, 4], [0, 0, 0]), SIZE, count=3) == (2.0, 4.0, 8.0)
    # Three of one class weigh as much as one of another.
    assert anchor_sizes(boxed([2, 2, 2, 16], [0, 0, 0, 1]), SIZE, count=2) == (2.0, 16.0)


def test_anchors_want_boxes_that_are_large_enough() -> None:
    none = boxed([8, 8], [0, 0])
    with pytest.raises(TrainingError, match=r"^The pictures to train on have no boxes\.$"):
        anchor_sizes(replace(none, valid=np.zeros((1, 2), np.bool_)), SIZE, count=3)
    with pytest.raises(TrainingError, match=r"^One in 6 things to train on is at most 0\.5 px large at 32x32; anchors"):
        anchor_sizes(boxed([0.5, 4, 8], [0, 0, 0]), SIZE, count=3)


@pytest.mark.parametrize("seed", range(5))
def test_where_few_pictures_have_a_box_each_part_has_some(tmp_path: Path, seed: int) -> None:
    some = [chr(ord("0") + number) for number in range(60) if chr(ord("0") + number).isalnum()]
    filled = np.random.default_rng(seed).choice(some, 5, replace=False).tolist()
    read = parts(voc(tmp_path / "set", {}, {name: [BOX] if name in filled else [] for name in some}))
    assert sorted(names(read.train) + names(read.validation) + names(read.test)) == sorted(some)
    assert [int(part.valid.any(axis=1).sum()) for part in (read.train, read.validation, read.test)] == [3, 1, 1]
    assert len(read.test) == pytest.approx(0.2 * len(some), abs=1)


def test_one_picture_with_a_box_is_not_enough(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^The \d pictures (to|for) .* must have a box of .* they have 0 boxes"):
        parts(voc(tmp_path / "set", {}, {"a": [BOX], **dict.fromkeys("bcdefgh", ())}))
