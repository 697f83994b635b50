"""What becomes of things whose boxes are not as they should be: never background."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from twinsight_core.errors import TrainingError
from twinsight_core.evaluation.detection import ANY_CLASS
from twinsight_core.images import Preprocessing
from twinsight_core.training.boxes import BoxedImages, read_coco, read_voc

SIZE = Preprocessing(height_px=25, width_px=30)
CLASSES = ("cat", "dog")

Thing = Mapping[str, object]


def picture() -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (120, 100)).save(file, "PNG")
    return file.getvalue()


def coco(folder: Path, *things: Thing) -> BoxedImages:
    """Reads the set of `made`, leaving out what is bad."""
    return read_coco(*made(folder, *things), preprocessing=SIZE, skip_bad=True)


def made(folder: Path, *things: Thing) -> tuple[Path, Path]:
    """Writes a picture of 120x100 for each thing and a last one with a good thing; returns annotations and pictures."""
    every = [*things, {"bbox": [10, 10, 20, 20]}]
    (folder / "set").mkdir()
    for number in range(len(every)):
        (folder / "set" / f"{number}.png").write_bytes(picture())
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(len(every))],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 2, **thing} for number, thing in enumerate(every)
        ],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json", folder / "set"


@pytest.mark.parametrize(
    ("thing", "corners"),
    [
        ({"bbox": [100, 10, 23, 30]}, (100, 10, 120, 40)),
        ({"bbox": [-2, 10, 20, 30]}, (0, 10, 18, 40)),
        ({"bbox": [-10, -10, 140, 120]}, (0, 0, 120, 100)),
        ({"segmentation": [[30, 20, 60, 20, 60, 70], [10, 30, 12, 30, 12, 33]]}, (10, 20, 60, 70)),
        ({"bbox": [], "segmentation": [[30, 20, 60, 20, 130, 70]]}, (30, 20, 120, 70)),
    ],
)
def test_boxes_are_cut_at_the_edge_and_polygons_have_bounds(
    thing: Thing, corners: tuple[int, ...], tmp_path: Path
) -> None:
    annotations, pictures = made(tmp_path, thing)
    data = read_coco(annotations, pictures, preprocessing=SIZE)
    assert (data.valid.tolist(), data.labels.tolist(), data.skipped) == ([[True], [True]], [[1], [1]], ())
    np.testing.assert_allclose(data.boxes[0, 0], np.array(corners) / [120, 100, 120, 100], rtol=1e-6)


@pytest.mark.parametrize(
    ("thing", "label", "corners", "flaw"),
    [
        ({"bbox": [100, 10, 45, 30]}, 1, (100, 10, 120, 40), "lies mostly outside the picture of 120x100."),
        ({"bbox": [-1.2, 10, 2, 30]}, 1, (0, 10, 0.8, 40), "lies mostly outside the picture of 120x100."),
        ({"bbox": [50, 50, -20, -10]}, 1, (30, 40, 50, 50), "(dog) has no area."),
        (
            {"bbox": [5, 5, 10, 10], "category_id": 7},
            ANY_CLASS,
            (5, 5, 15, 15),
            "`category_id` (=7) is not the id of a category.",
        ),
    ],
)
def test_what_is_wrong_and_covers_some_of_the_picture_is_ignored(
    thing: Thing, label: int, corners: tuple[float, ...], flaw: str, tmp_path: Path
) -> None:
    data = coco(tmp_path, thing)
    assert (data.valid.tolist(), data.ignored.tolist()) == ([[False], [True]], [[True], [False]])
    assert data.labels.tolist() == [[label], [1]]
    np.testing.assert_allclose(data.boxes[0, 0], np.array(corners) / [120, 100, 120, 100], rtol=1e-6)
    assert len(data.skipped) == 1
    assert data.skipped[0].endswith(flaw)
    assert data.left_out == 0


@pytest.mark.parametrize(
    ("thing", "flaw"),
    [
        ({"bbox": [50, 50, 0, 0]}, "box 50, 50, 50, 50 (dog) has no area."),
        ({"bbox": [130, 50, 20, 20]}, "(dog) lies outside the picture of 120x100."),
        ({"bbox": [1, 2, 3]}, "annotations[0] of picture 0 (0.png): `bbox` (=[1.0, 2.0, 3.0]) must be 4 numbers."),
        ({}, "annotations[0] of picture 0 (0.png): `bbox` is missing."),
        ({"segmentation": [[1, 2, 3, 4]]}, "so `segmentation` must be polygons of at least three points."),
        ({"segmentation": {"counts": [1, 2], "size": [100, 120]}}, "must be a list."),
    ],
)
def test_a_picture_is_left_out_of_which_a_thing_is_nobody_knows_where(thing: Thing, flaw: str, tmp_path: Path) -> None:
    annotations, pictures = made(tmp_path, thing)
    with pytest.raises(TrainingError, match="1 things can't be used") as raised:
        read_coco(annotations, pictures, preprocessing=SIZE)
    assert raised.value.message.endswith(flaw)
    data = read_coco(annotations, pictures, preprocessing=SIZE, skip_bad=True)
    assert (data.files, data.left_out) == (("1.png",), 1)


def test_things_of_voc_that_are_wrong_are_ignored_or_leave_their_picture_out(tmp_path: Path) -> None:
    def annotated(name: str, *objects: str, of: str = "") -> None:
        body = "".join(f"<object>{one}</object>" for one in objects)
        (tmp_path / f"Annotations/{name}.xml").write_text(
            f"<annotation><filename>{of or name}.png</filename>{body}</annotation>"
        )

    def box(*corners: int) -> str:
        sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        return f"<bndbox>{''.join(f'<{side}>{place}</{side}>' for side, place in sides)}</bndbox>"

    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        (tmp_path / f"JPEGImages/{name}.png").write_bytes(picture())
    annotated("a", f"<name>cat</name>{box(0, 0, 60, 50)}", f"<name>cow</name>{box(6, 10, 30, 20)}", box(60, 50, 90, 70))
    annotated("b", "<name>cat</name>")
    annotated("c", f"<name>dog</name>{box(60, 50, 120, 100)}")
    annotated("d", f"<name>dog</name>{box(0, 0, 30, 20)}", of="c")
    data = read_voc(tmp_path, preprocessing=SIZE, classes=CLASSES, skip_bad=True)
    assert (data.files, data.left_out) == (("JPEGImages/a.png", "JPEGImages/c.png"), 1)
    assert data.valid.tolist() == [[True, False, False], [True, False, False]]
    assert data.ignored.tolist() == [[False, True, True], [False, True, False]]
    assert data.labels.tolist() == [[0, ANY_CLASS, ANY_CLASS], [1, 1, 0]]
    assert len(data.skipped) == 4


def test_names_in_another_unicode_form_are_the_same(tmp_path: Path) -> None:
    apart, together = "cafe\u0301", "caf\xe9"
    for name, content in {
        f"{apart}/Annotations/{apart}.xml": (
            f"<annotation><filename>{together}.png</filename><object><name>{together}</name><bndbox><xmin>0</xmin>"
            "<ymin>0</ymin><xmax>60</xmax><ymax>50</ymax></bndbox></object></annotation>"
        ).encode(),
        f"{apart}/ImageSets/Main/train.txt": together.encode(),
        f"{apart}/JPEGImages/{apart}.png": picture(),
    }.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    data = read_voc(tmp_path / "set", preprocessing=SIZE, image_set="train", classes=(apart,))
    assert (data.classes, data.files) == ((together,), (f"{apart}/JPEGImages/{apart}.png",))
    (tmp_path / "truth.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": f"{together}.png"}],
                "categories": [{"id": 1, "name": apart}],
                "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 60, 50]}],
            }
        )
    )
    data = read_coco(tmp_path / "truth.json", tmp_path / "set", preprocessing=SIZE, classes=(together,))
    assert (data.valid.tolist(), data.skipped) == ([[True]], ())


@pytest.mark.parametrize("other", ["thumbs/0.png", ".thumbs/0.png"])
def test_a_path_that_is_a_pictures_own_is_not_another_of_the_same_name(tmp_path: Path, other: str) -> None:
    annotations, pictures = made(tmp_path, {"bbox": [10, 10, 20, 20]})
    (pictures / other).parent.mkdir()
    (pictures / other).write_bytes(picture())
    assert read_coco(annotations, pictures, preprocessing=SIZE).files == ("0.png", "1.png")


def test_a_hidden_picture_of_the_same_name_is_not_the_one(tmp_path: Path) -> None:
    annotations, pictures = made(tmp_path, {"bbox": [10, 10, 20, 20]})
    for folder in ("deep", ".trash"):
        (pictures / folder).mkdir()
        (pictures / folder / "0.png").write_bytes(picture())
    (pictures / "0.png").unlink()
    assert read_coco(annotations, pictures, preprocessing=SIZE).files == ("deep/0.png", "1.png")
