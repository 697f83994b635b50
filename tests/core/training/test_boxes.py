import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twinsight_core.errors import TrainingError
from twinsight_core.images import DEFAULT_LIMITS, Preprocessing
from twinsight_core.training.box_formats import MAX_XML_BYTES, voc_lists
from twinsight_core.training.boxes import read_coco, read_voc
from twinsight_core.training.files import Files

SIZE = Preprocessing(height_px=24, width_px=32)
BCCD = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "bccd_trainval.zip"

Write = Callable[[Mapping[str, bytes]], Path]


@pytest.fixture(params=["folder", "zip"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    """Writes files to a folder or a zip and returns its path."""

    def folder(files: Mapping[str, bytes]) -> Path:
        for name, content in files.items():
            (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "set" / name).write_bytes(content)
        return tmp_path / "set"

    def archive(files: Mapping[str, bytes]) -> Path:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
            for name, content in files.items():
                packed.writestr(name, content)
        return tmp_path / "set.zip"

    return folder if request.param == "folder" else archive


def picture(width: int = 64, height: int = 48, *, orientation: int = 1) -> bytes:
    stored = Image.new("RGB", (width, height), (200, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "JPEG", exif=exif)
    return file.getvalue()


def annotation(*things: tuple[str, float, float, float, float], name: str = "a.jpg", size: str = "64x48") -> bytes:
    width, _, height = size.partition("x")
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x_min}</xmin><ymin>{y_min}</ymin><xmax>{x_max}</xmax>"
        f"<ymax>{y_max}</ymax></bndbox></object>"
        for label, x_min, y_min, x_max, y_max in things
    )
    return (
        f"<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{objects}</annotation>"
    ).encode()


GOOD = {
    "Annotations/a.xml": annotation(("cat", 16, 12, 32, 48), ("dog", 0, 0, 64, 24)),
    "Annotations/b.xml": annotation(("dog", 8, 6, 16, 12), name="b.jpg"),
    "JPEGImages/a.jpg": picture(),
    "JPEGImages/b.jpg": picture(),
    "ImageSets/Main/train.txt": b"a\n",
    "ImageSets/Main/val.txt": b"b  1\n\n",
}


def test_what_macos_packs_into_a_zip_of_its_own_is_passed_over(write: Write) -> None:
    data = write(
        {
            "set/Annotations/a.xml": annotation(("cell", 1, 1, 20, 20)),
            "set/JPEGImages/a.jpg": picture(),
            "set/ImageSets/Main/train.txt": b"a\n",
            "__MACOSX/set/Annotations/._a.xml": b"\x00\x05",
            "__MACOSX/set/ImageSets/Main/._train.txt": b"\x00\x05",
            "set/Annotations/._a.xml": b"\x00\x05",
            "set/ImageSets/Main/._val.txt": b"\x00\x05",
        }
    )
    assert read_voc(data, preprocessing=SIZE).files == ("set/JPEGImages/a.jpg",)
    assert voc_lists(Files(data)) == {"train"}


def test_boxes_are_fractions_padded_to_the_most(write: Write) -> None:
    data = read_voc(write(GOOD), preprocessing=SIZE)
    assert len(data) == 2
    assert data.classes == ("cat", "dog")
    assert data.files == ("JPEGImages/a.jpg", "JPEGImages/b.jpg")
    assert data.images.shape == (2, 24, 32, 3)
    assert data.images.dtype == np.uint8
    assert data.valid.tolist() == [[True, True], [True, False]]
    assert data.labels.tolist() == [[0, 1], [1, 0]]
    np.testing.assert_allclose(data.boxes[0], [[0.25, 0.25, 0.5, 1.0], [0.0, 0.0, 1.0, 0.5]])
    np.testing.assert_allclose(data.boxes[1], [[0.125, 0.125, 0.25, 0.25], [0.0, 0.0, 0.0, 0.0]])
    assert data.sizes.tolist() == [[48, 64], [48, 64]]
    assert data.skipped == ()


def test_a_list_chooses_and_classes_keep_their_numbers(write: Write) -> None:
    inside = write({f"VOCdevkit/VOC2012/{name}": content for name, content in GOOD.items()})
    data = read_voc(inside, preprocessing=SIZE, image_set="val", classes=("bird", "dog"), max_boxes=5)
    assert data.files == ("VOCdevkit/VOC2012/JPEGImages/b.jpg",)
    assert data.labels.tolist() == [[1, 0, 0, 0, 0]]
    assert data.boxes.shape == (1, 5, 4)


def test_names_in_lists_may_hold_spaces(write: Write) -> None:
    names = ("my photo", "cat", "photo 1", "two words")
    files = {f"Annotations/{name}.xml": annotation(("cat", 1, 1, 5, 5), name=f"{name}.jpg") for name in names}
    files |= {f"JPEGImages/{name}.jpg": picture() for name in names}
    files["ImageSets/Main/train.txt"] = b"my photo\n photo 1 \n"
    files["ImageSets/Main/cat_train.txt"] = b"my photo  1\ncat 0\nphoto 1 -1\ntwo words -1\n"
    data = write(files)
    assert [Path(one).stem for one in read_voc(data, preprocessing=SIZE, image_set="train").files] == [
        "my photo",
        "photo 1",
    ]
    of_class = read_voc(data, preprocessing=SIZE, image_set="cat_train")
    assert [Path(one).stem for one in of_class.files] == ["my photo", "cat", "photo 1", "two words"]


def test_suffixes_may_be_in_any_case(write: Write) -> None:
    files = {
        "Annotations/A1.xml": annotation(("cat", 1, 1, 5, 5), name="A1.jpg"),
        "Annotations/b.XML": annotation(("cat", 1, 1, 5, 5), name="c.jpg"),
        "JPEGImages/A1.JPG": picture(),
        "JPEGImages/c.Jpg": picture(),
    }
    data = read_voc(write(files), preprocessing=SIZE)
    assert data.files == ("JPEGImages/A1.JPG", "JPEGImages/c.Jpg")
    numbered = {
        "Annotations/street 1.XML": annotation(("cat", 1, 1, 5, 5), name="street 1.jpg"),
        "JPEGImages/street 1.JPG": picture(),
        "ImageSets/Main/val.txt": b"street 1\n",
    }
    assert read_voc(write(numbered), preprocessing=SIZE, image_set="val").files == ("JPEGImages/street 1.JPG",)


def test_a_picture_may_hold_nothing(write: Write) -> None:
    data = read_voc(write({**GOOD, "Annotations/b.xml": annotation(name="b.jpg")}), preprocessing=SIZE)
    assert data.valid.tolist() == [[True, True], [False, False]]


def test_difficult_things_are_regions_to_be_ignored(write: Write) -> None:
    cat, dog = ("cat", 16, 12, 32, 48), ("dog", 0, 0, 64, 24)
    xml = annotation(cat, dog).replace(b"<name>cat</name>", b"<name>cat</name><difficult>1</difficult>")
    xml = xml.replace(b"<name>dog</name>", b"<name>dog</name><difficult>0</difficult>")
    data = read_voc(write({**GOOD, "Annotations/a.xml": xml}), preprocessing=SIZE)
    assert data.valid.tolist() == [[False, True], [True, False]]
    assert data.ignored.tolist() == [[True, False], [False, False]]


BAD = {
    **GOOD,
    "Annotations/a.xml": annotation(
        ("cat", 16, 12, 32, 40),
        ("cow", 1, 1, 5, 5),
        ("cat", 30, 5, 30, 9),
        ("dog", 60, 10, 80, 20),
        ("dog", 0, 0, 65, 49),
    ),
    "Annotations/c.xml": annotation(("cat", 1, 1, 5, 5), name="c.jpg"),
    "Annotations/d.xml": annotation(("cat", 1, 1, 5, 5), name="d.jpg"),
    "Annotations/e.xml": b"<annotation><filename>e.jpg</filename>",
    "Annotations/f.xml": annotation(("cat", 1, 1, 5, 5), name="f.jpg", size="48x64"),
    "Annotations/g.xml": annotation(("cat", 1, float("nan"), 5, 5), name="g.jpg"),
    "JPEGImages/d.jpg": picture()[:300],
    "JPEGImages/e.jpg": picture(),
    "JPEGImages/f.jpg": picture(),
    "JPEGImages/g.jpg": picture(),
    "ImageSets/Main/train.txt": b"a\nb\nc\nd\ne\nf\ng\nh\n",
}


def test_all_that_is_wrong_is_told_at_once(write: Write) -> None:
    with pytest.raises(TrainingError) as raised:
        read_voc(write(BAD), preprocessing=SIZE, image_set="train", classes=("cat", "dog"))
    assert raised.value.reason == "BOXES_UNUSABLE"
    heading, *lines = raised.value.message.splitlines()
    assert heading.endswith("9 things can't be used:")
    assert sorted(line.strip() for line in lines) == sorted(
        [
            "JPEGImages/a.jpg: unknown label `cow` (in all: 1 box in 1 picture).",
            "JPEGImages/a.jpg: box 30, 5, 30, 9 (cat) has no area.",
            "JPEGImages/a.jpg: box 60, 10, 80, 20 (dog) lies mostly outside the picture of 64x48.",
            "Annotations/c.xml: its picture JPEGImages/c.jpg is missing.",
            "JPEGImages/d.jpg: The picture can't be decoded: it is damaged or truncated.",
            "Annotations/e.xml: not XML (no element found: line 1, column 38).",
            "JPEGImages/f.jpg: the picture is 64x48, but its annotation says 48x64; if its EXIF data turns it, "
            "size and boxes must be those of the upright picture.",
            "Annotations/g.xml: `ymin` (='nan') must be a number.",
            "Annotations/h.xml: the annotation is missing.",
        ]
    )


def test_boxes_of_an_unknown_label_are_told_in_one_line(write: Write) -> None:
    files = {
        "Annotations/a.xml": annotation(*(("cow", 1, 1, 5 + n, 5) for n in range(30)), name="a.jpg"),
        "Annotations/b.xml": annotation(("cow", 1, 1, 5, 5), ("cat", 1, 1, 5, 5), ("ox", 1, 1, 5, 5), name="b.jpg"),
        "JPEGImages/a.jpg": picture(),
        "JPEGImages/b.jpg": picture(),
    }
    data = read_voc(write(files), preprocessing=SIZE, classes=("cat",), skip_bad=True)
    assert data.skipped == (
        "JPEGImages/a.jpg: unknown label `cow` (in all: 31 boxes in 2 pictures).",
        "JPEGImages/b.jpg: unknown label `ox` (in all: 1 box in 1 picture).",
    )
    assert (data.valid.sum(axis=1).tolist(), data.ignored.sum(axis=1).tolist()) == ([0, 1], [30, 2])


def test_what_is_wrong_can_be_left_out(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    data = read_voc(write(BAD), preprocessing=SIZE, image_set="train", classes=("cat", "dog"), skip_bad=True)
    # Of `a` and `g` nobody knows where something is.
    assert (data.files, data.valid.tolist()) == (("JPEGImages/b.jpg",), [[True]])
    assert (len(data.skipped), data.left_out) == (9, 7)
    assert "9 things can't be used" in caplog.text


def test_too_many_boxes_are_wrong_too(write: Write) -> None:
    with pytest.raises(TrainingError, match=r"JPEGImages/a\.jpg: 2 boxes; at most 1 are supported\."):
        read_voc(write(GOOD), preprocessing=SIZE, max_boxes=1)


def test_a_picture_on_its_side_counts_upright(write: Write) -> None:
    files = {**GOOD, "JPEGImages/a.jpg": picture(48, 64, orientation=6)}
    data = read_voc(write(files), preprocessing=SIZE, image_set="train")
    assert data.sizes.tolist() == [[48, 64]]


def test_a_box_without_a_name_or_without_area_in_the_picture_is_wrong(write: Write) -> None:
    things = ((" ", 1, 1, 5, 5), ("cat", -0.9, 1, -0.1, 5), ("cat", 30, 1, 30.0000001, 5), ("dog", 1, 1, 5, 5))
    files = {**GOOD, "Annotations/a.xml": annotation(*things)}
    with pytest.raises(TrainingError) as raised:
        read_voc(write(files), preprocessing=SIZE)
    _, *lines = raised.value.message.splitlines()
    assert [line.strip() for line in lines] == [
        "Annotations/a.xml: an object has no name.",
        "JPEGImages/a.jpg: box -0.9, 1, -0.1, 5 (cat) has no area left in the picture.",
        "JPEGImages/a.jpg: box 30, 1, 30, 5 (cat) has no area left in the picture.",
    ]
    assert read_voc(write(files), preprocessing=SIZE, skip_bad=True).files == ("JPEGImages/b.jpg",)


def test_a_picture_is_annotated_once(write: Write) -> None:
    files = {**GOOD, "Annotations/c.xml": annotation(("cat", 1, 1, 5, 5), name="a.jpg")}
    with pytest.raises(TrainingError, match=r"JPEGImages/a\.jpg: a second annotation refers to this picture\.$"):
        read_voc(write(files), preprocessing=SIZE)
    assert read_voc(write(files), preprocessing=SIZE, skip_bad=True).files == ("JPEGImages/a.jpg", "JPEGImages/b.jpg")


def test_a_set_without_boxes_has_no_classes_to_learn(write: Write) -> None:
    files = {**GOOD, "Annotations/a.xml": annotation(), "Annotations/b.xml": annotation(name="b.jpg")}
    with pytest.raises(TrainingError, match=r"no picture has a box\.$"):
        read_voc(write(files), preprocessing=SIZE)


def test_a_file_that_is_too_large_or_damaged_is_told(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in GOOD.items():
            archive.writestr(name, content + b"checked" * (name == "JPEGImages/b.jpg"))
        archive.writestr("Annotations/c.xml", annotation(name="c.jpg"))
        archive.writestr("JPEGImages/c.jpg", bytes(DEFAULT_LIMITS.max_bytes + 1), zipfile.ZIP_DEFLATED)
        archive.writestr("Annotations/d.xml", bytes(MAX_XML_BYTES + 1), zipfile.ZIP_DEFLATED)
    (tmp_path / "set.zip").write_bytes(packed.getvalue().replace(b"checked", b"chEcked"))
    with pytest.raises(TrainingError) as raised:
        read_voc(tmp_path / "set.zip", preprocessing=SIZE)
    _, *lines = raised.value.message.splitlines()
    assert [line.strip() for line in lines] == [
        "Annotations/d.xml: The file has 16,777,217 bytes; the limit is 16,777,216.",
        "JPEGImages/b.jpg: The zip's entry can't be read (Bad CRC-32 for file 'JPEGImages/b.jpg').",
        "JPEGImages/c.jpg: The file has 16,777,217 bytes; the limit is 16,777,216.",
    ]
    assert read_voc(tmp_path / "set.zip", preprocessing=SIZE, skip_bad=True).files == ("JPEGImages/a.jpg",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_entities_is_refused(write: Write, encoding: str) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><annotation><filename>&d;</filename></annotation>'
    files = {**GOOD, "Annotations/a.xml": f'<?xml version="1.0" encoding="{encoding}"?>{bomb}'.encode(encoding)}
    with pytest.raises(TrainingError, match=r"Annotations/a\.xml: a document type is not allowed\."):
        read_voc(write(files), preprocessing=SIZE)


def test_no_file_outside_the_set_is_read(write: Write, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture())
    files = dict(GOOD)
    del files["JPEGImages/a.jpg"]
    files["Annotations/a.xml"] = annotation(("cat", 1, 1, 5, 5), name="../../secret.jpg")
    with pytest.raises(TrainingError, match=r"a\.xml: its picture JPEGImages/\.\./\.\./secret\.jpg is missing\."):
        read_voc(write(files), preprocessing=SIZE)


def test_what_is_no_set_is_told(write: Write, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="there is no list `test`; available: train, val"):
        read_voc(write(GOOD), preprocessing=SIZE, image_set="test")
    with pytest.raises(TrainingError, match="no such folder or zip"):
        read_voc(tmp_path / "nowhere", preprocessing=SIZE)
    (tmp_path / "text").write_text("no zip")
    with pytest.raises(TrainingError, match="neither a folder nor a zip"):
        read_voc(tmp_path / "text", preprocessing=SIZE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="one `Annotations` folder is required; found none"):
        read_voc(tmp_path / "empty", preprocessing=SIZE)


def test_fractions_are_kept_by_stretching_alone(write: Write) -> None:
    with pytest.raises(ValueError, match=r"^`fit` \(='pad'\) must be 'stretch' for pictures with boxes\.$"):
        read_voc(write(GOOD), preprocessing=Preprocessing(height_px=24, width_px=32, fit="pad"))


def coco(path: Path, **changes: object) -> Path:
    content: dict[str, object] = {
        "info": {"year": 2024},
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48},
            {"id": 9, "file_name": "deep/b.jpg"},
        ],
        "categories": [{"id": 3, "name": "dog", "supercategory": "animal"}, {"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [16, 12, 16, 36], "area": 576, "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 1, "bbox": [0, 0, 64.4, 24]},
            {"id": 3, "image_id": 9, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }
    file = path / "instances.json"
    file.write_text(json.dumps(content | changes))
    return file


COCO_PICTURES = {"val/a.jpg": picture(), "val/deep/b.jpg": picture()}


def test_coco_boxes_are_read_by_their_corner_and_size(write: Write, tmp_path: Path) -> None:
    data = read_coco(coco(tmp_path), write(COCO_PICTURES), preprocessing=SIZE)
    assert data.classes == ("cat", "dog")
    assert data.files == ("val/a.jpg", "val/deep/b.jpg")
    assert data.labels.tolist() == [[1, 0], [0, 0]]
    np.testing.assert_allclose(data.boxes[:, 0], [[0.25, 0.25, 0.5, 1.0], [0, 0, 1, 0.5]])
    assert data.valid.tolist() == [[True, False], [True, False]]


def test_crowds_are_regions_to_be_ignored(write: Write, tmp_path: Path) -> None:
    data = read_coco(coco(tmp_path), write(COCO_PICTURES), preprocessing=SIZE)
    assert data.ignored.tolist() == [[False, False], [False, True]]
    np.testing.assert_allclose(data.boxes[1, 1], [0, 0, 9 / 64, 9 / 48])


def test_all_that_is_wrong_with_a_coco_set_is_told_at_once(write: Write, tmp_path: Path) -> None:
    broken = coco(
        tmp_path,
        images=[{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "c.jpg"}],
        annotations=[
            {"id": 1, "image_id": 7, "category_id": 5, "bbox": [1, 1, 2, 2]},
            {"id": 2, "image_id": 6, "category_id": 1, "bbox": [1, 1, 2, 2]},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [1, 1, 0, 2]},
            {"id": 4, "image_id": 7, "category_id": 1, "bbox": [1, 1, float("nan"), 2]},
            {"id": 5, "image_id": 7, "category_id": 1},
            {"id": 6, "image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2], "iscrowd": "no"},
        ],
    )
    with pytest.raises(TrainingError) as raised:
        read_coco(broken, write(COCO_PICTURES), preprocessing=SIZE)
    _, *lines = raised.value.message.splitlines()
    assert [line.strip() for line in lines] == [
        "annotations[0] of picture 7 (a.jpg): `category_id` (=5) is not the id of a category.",
        "annotations[1]: `image_id` (=6) is not the id of a picture.",
        "annotations[3] of picture 7 (a.jpg): `annotations[3].bbox[2].value` (=nan) must be a finite number.",
        "annotations[4] of picture 7 (a.jpg): `bbox` is missing.",
        "annotations[5] of picture 7 (a.jpg): `annotations[5].iscrowd` (='no') must be true or false, or 1 or 0.",
        "picture 8: c.jpg is missing.",
        "val/a.jpg: box 1, 1, 1, 3 (cat) has no area.",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "cat"}]},
            r"category names must be distinct and not empty; `cat` occurs more than once\.$",
        ),
        (
            {"categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": " "}]},
            r"category names must be distinct and not empty; one is empty\.$",
        ),
        (
            {"categories": [{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}]},
            r"not a COCO file: `categories` has the id 1 more than once\.$",
        ),
        (
            {"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 7, "file_name": "b.jpg"}]},
            r"not a COCO file: `images` has the id 7 more than once\.$",
        ),
        (
            {"images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "val/a.jpg"}]},
            r"val/a\.jpg: a second annotation refers to this picture\.",
        ),
        (
            {"categories": [{"id": number, "name": f"class{number}"} for number in range(1001)]},
            r"there are 1001 classes; at most 1000 are supported\.$",
        ),
        ({"categories": [], "annotations": []}, r"no picture has a box\.$"),
        (
            {"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [0, 0, 10**400, 5]}]},
            r"annotations\[0\] of picture 7 \(a\.jpg\): `annotations\[0\].bbox\[2\].value` .* must be a finite number",
        ),
    ],
)
def test_names_and_ids_of_a_coco_file_must_differ(
    tmp_path: Path, write: Write, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        read_coco(coco(tmp_path, **changes), write(COCO_PICTURES), preprocessing=SIZE)


def test_what_is_no_coco_file_is_told(tmp_path: Path, write: Write) -> None:
    pictures = write(COCO_PICTURES)
    (tmp_path / "text.json").write_text("[1")
    for file, message in (
        (tmp_path / "text.json", "not a COCO file"),
        (tmp_path / "nowhere.json", "can't be read"),
        (coco(tmp_path, categories=3), "not a COCO file: `categories`"),
    ):
        with pytest.raises(TrainingError, match=message):
            read_coco(file, pictures, preprocessing=SIZE)


def test_the_blood_cells_are_read_and_their_two_empty_boxes_told() -> None:
    if not BCCD.exists():
        pytest.skip("the data folder with the blood cells is absent")
    for name, count in (("train", 204), ("val", 86)):
        with pytest.raises(TrainingError, match="1 things can't be used"):
            read_voc(BCCD, preprocessing=SIZE, image_set=name)
        data = read_voc(BCCD, preprocessing=SIZE, image_set=name, skip_bad=True)
        assert (len(data), data.left_out) == (count, 1)
        assert data.classes == ("Platelets", "RBC", "WBC")
