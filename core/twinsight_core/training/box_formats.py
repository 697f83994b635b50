"""The formats that labelling tools write boxes in: Pascal VOC and COCO, read from a folder or a zip.

Nothing here opens a picture: a format says which pictures exist and what is marked in them. Flaws of single annotations
are collected, a sentence each; an error is raised only if nothing is left to read.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree as ET
from xml.parsers import expat

from twinsight_core.errors import TrainingError
from twinsight_core.json_fields import JsonFields
from twinsight_core.training.files import Files, composed

MAX_XML_BYTES = 16 * 1024 * 1024
MAX_JSON_BYTES = 1024 * 1024 * 1024
MAX_ID = 2**53


class MarkedBox(NamedTuple):
    """One thing as its annotation has it.

    Attributes:
        label: name of its class; empty if unknown.
        corners: x_min, y_min, x_max, y_max in pixels of the picture.
        ignored: a region that is neither a thing to find nor background: COCO's `iscrowd`, VOC's `difficult`.
    """

    label: str
    corners: tuple[float, float, float, float]
    ignored: bool = False


class MarkedPicture(NamedTuple):
    """One picture as its annotation has it.

    Attributes:
        file: its path inside the source.
        size: width and height that the annotation claims; None if it claims none.
        boxes: what is in it.
        unplaced: it contains a thing whose place is unknown.
    """

    file: str
    size: tuple[int, int] | None
    boxes: tuple[MarkedBox, ...]
    unplaced: bool = False


class MarkedSet(NamedTuple):
    """What the annotations of a set say.

    Attributes:
        pictures: those that exist.
        flaws: what is wrong with them, with their boxes and with other pictures, a sentence each.
        missing: how many other pictures the annotations name; none of them can be used.
        classes: names of the classes by number, if the format lists them.
    """

    pictures: list[MarkedPicture]
    flaws: list[str]
    missing: int
    classes: tuple[str, ...] = ()


def voc_pictures(files: Files, image_set: str | None) -> MarkedSet:
    """Returns what a set in the layout of Pascal VOC says.

    Source: Everingham et al., "The PASCAL Visual Object Classes Challenge 2012 Development Kit", section 7.

    Args:
        files: hold `Annotations/*.xml`, `JPEGImages/` and lists in `ImageSets/Main/`, at the top or in a folder.
        image_set: name of the list to read; None reads every annotation.

    Raises:
        TrainingError: the layout is another, or there is no such list.
    """
    root = _voc_root(files)
    written = _by_lower_suffix(files.shown)
    pictures: list[MarkedPicture] = []
    flaws: list[str] = []
    names = _voc_names(files, root, image_set, written)
    for name in names:
        try:
            pictures.append(_voc_picture(files, root, name, written, flaws))
        except ValueError as error:
            flaws.append(str(error))
    return MarkedSet(pictures, flaws, missing=len(names) - len(pictures))


def coco_pictures(annotations: Path, files: Files) -> MarkedSet:
    """Returns what a COCO file says; the classes are its categories in the order of their ids.

    Source: "COCO data format", cocodataset.org.

    Args:
        annotations: the JSON file.
        files: the pictures; `file_name` is a path in them, or the end of one.

    Raises:
        TrainingError: the file is missing or not a COCO file.
    """
    content = _json(annotations)
    flaws: list[str] = []
    try:
        names = {number: composed(one.text("name")) for number, one in _by_id(content, "categories").items()}
        pictures, missing = _coco_marked(files, content, names, flaws)
    except (ValueError, KeyError) as error:
        raise TrainingError(f"{annotations}: not a COCO file: {_problem(error)}", reason="DATA_UNREADABLE") from error
    classes = [names[one] for one in sorted(names)]
    doubled = sorted(name for name, count in Counter(classes).items() if count > 1)
    if doubled or not all(one.strip() for one in classes):
        what = f"`{doubled[0]}` occurs more than once" if doubled else "one is empty"
        raise TrainingError(
            f"{annotations}: category names must be distinct and not empty; {what}.",
            reason="CLASSES_INVALID",
        )
    return MarkedSet(pictures, flaws, missing, tuple(classes))


def voc_lists(files: Files) -> frozenset[str]:
    """Returns the names of the lists in a set with the layout of Pascal VOC; see `voc_pictures`."""
    folder = f"{_voc_root(files)}ImageSets/Main/"
    return frozenset(
        name[len(folder) : -4] for name in files.shown if name.startswith(folder) and name.endswith(".txt")
    )


def _voc_root(files: Files) -> str:
    """Returns the path of the folder that holds `Annotations/`, with a trailing slash; empty at the top."""
    roots = {name[: name.index("Annotations/")] for name in files.shown if f"/{name}".count("/Annotations/") == 1}
    if len(roots) != 1:
        what = f"several: {', '.join(sorted(roots))}" if roots else "none"
        raise TrainingError(f"{files.path}: one `Annotations` folder is required; found {what}.", reason="DATA_LAYOUT")
    return roots.pop()


def _voc_names(files: Files, root: str, image_set: str | None, written: Mapping[str, str]) -> list[str]:
    if image_set is None:
        folder = f"{root}Annotations/"
        return sorted(
            name[len(folder) : -4] for name in files.shown if name.startswith(folder) and name.lower().endswith(".xml")
        )
    folder = f"{root}ImageSets/Main/"
    listing = f"{folder}{image_set}.txt"
    if listing not in files.shown:
        raise TrainingError(
            f"{files.path}: there is no list `{image_set}`; available: "
            f"{', '.join(sorted(voc_lists(files))) or 'none'}.",
            reason="DATA_MISSING",
        )
    try:
        content = files.read(listing, most_bytes=MAX_XML_BYTES)
    except ValueError as error:
        raise TrainingError(f"{files.path}: {listing}: {error}", reason="DATA_UNREADABLE") from error
    lines = content.decode("utf-8-sig", errors="replace").splitlines()
    return list(dict.fromkeys(_voc_name(written, root, line.strip()) for line in lines if line.strip()))


def _voc_name(written: Mapping[str, str], root: str, line: str) -> str:
    """Returns the name in a line of a list; lists of one class add whether the picture has the class: 1, 0 or -1."""
    name, *flag = line.rsplit(maxsplit=1)
    has_flag = flag in (["1"], ["0"], ["-1"]) and composed(f"{root}Annotations/{line}.xml") not in written
    return name if has_flag else line


def _by_lower_suffix(names: frozenset[str]) -> dict[str, str]:
    """Returns the paths, keyed by their composed form with the suffix in lower case."""
    return {_with_lower_suffix(name): name for name in sorted(names)}


def _with_lower_suffix(name: str) -> str:
    stem, dot, suffix = composed(name).rpartition(".")
    return f"{stem}{dot}{suffix.lower()}"


def _voc_picture(files: Files, root: str, name: str, written: Mapping[str, str], flaws: list[str]) -> MarkedPicture:
    """Returns one picture; adds what is wrong with single boxes to `flaws`.

    Args:
        files: hold the set.
        root: path of its folder, with a trailing slash.
        name: of the picture and its annotation, without suffixes.
        written: paths in `files`, keyed by their composed form with the suffix in lower case: cameras write `.JPG`.
        flaws: is added to.

    Raises:
        ValueError: the picture can't be used.
    """
    file = written.get(composed(f"{root}Annotations/{name}.xml"), "")
    if not file:
        raise ValueError(f"{root}Annotations/{name}.xml: the annotation is missing.")
    try:
        content = files.read(file, most_bytes=MAX_XML_BYTES)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    tree = _xml(file, content)
    named = (tree.findtext("filename") or "").strip()
    of_name = [f"{root}JPEGImages/{name}{suffix}" for suffix in (".jpg", ".jpeg", ".png", ".webp")]
    exact = f"{root}JPEGImages/{named}"
    candidates = (*of_name, exact, *(written.get(_with_lower_suffix(one)) for one in (*of_name, exact)))
    picture = next((one for one in candidates if one in files.shown), None)
    if picture is None:
        raise ValueError(f"{file}: its picture {root}JPEGImages/{named or name + '.jpg'} is missing.")
    size = tree.find("size")
    claimed = None
    if size is not None:
        width, height = (_number(file, size, side) for side in ("width", "height"))
        # Some tools write zeros for an unknown size.
        claimed = (int(width), int(height)) if width > 0 and height > 0 else None
    boxes, unplaced = [], False
    for one in tree.iter("object"):
        try:
            boxes.append(_voc_box(file, one))
        except ValueError as error:
            flaws.append(str(error))
            unplaced = True
    flaws.extend(f"{file}: an object has no name." for one in boxes if not one.label)
    return MarkedPicture(file=picture, size=claimed, boxes=tuple(boxes), unplaced=unplaced)


def _voc_box(file: str, thing: ET.Element) -> MarkedBox:
    """Returns one thing; raises ValueError if it has no place."""
    corners = thing.find("bndbox")
    if corners is None:
        raise ValueError(f"{file}: an object has no bndbox.")
    x_min, y_min, x_max, y_max = (_number(file, corners, side) for side in ("xmin", "ymin", "xmax", "ymax"))
    label = composed((thing.findtext("name") or "").strip())
    difficult = (thing.findtext("difficult") or "").strip() not in ("", "0")
    return MarkedBox(label=label, corners=(x_min, y_min, x_max, y_max), ignored=difficult)


def _number(file: str, parent: ET.Element, name: str) -> float:
    text = (parent.findtext(name) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{file}: `{name}` (={text!r:.40}) must be a number.")
    return value


def _xml(file: str, content: bytes) -> ET.Element:
    """Returns the root of an XML file without a document type, and so without entities that could expand.

    Raises:
        ValueError: it has one, or is not XML.
    """

    def refuse(*_: object) -> None:
        raise ValueError(f"{file}: a document type is not allowed.")

    checking = expat.ParserCreate()
    checking.StartDoctypeDeclHandler = refuse
    try:
        checking.Parse(content, True)
        return ET.fromstring(content)  # noqa: S314  # it has no document type
    except (expat.ExpatError, ET.ParseError, LookupError) as error:
        raise ValueError(f"{file}: not XML ({error}).") from error


def _json(path: Path) -> JsonFields:
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise TrainingError(
                f"{path}: the file has {size} bytes; the limit is {MAX_JSON_BYTES}.", reason="DATA_UNREADABLE"
            )
        return JsonFields(json.loads(path.read_bytes()))
    except OSError as error:
        raise TrainingError(f"{path}: can't be read ({error.strerror}).", reason="DATA_MISSING") from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: not a COCO file: {error}", reason="DATA_UNREADABLE") from error


def _coco_marked(
    files: Files, content: JsonFields, names: dict[int, str], flaws: list[str]
) -> tuple[list[MarkedPicture], int]:
    """Returns the pictures that exist, and how many do not; adds what is wrong to `flaws`."""
    exact, ends = {composed(name): name for name in files.names}, _by_end(files.shown)
    boxes: dict[int, list[MarkedBox]] = defaultdict(list)
    unplaced: set[int] = set()
    images = _by_id(content, "images")
    for number, one in enumerate(content.objects("annotations")):
        try:
            image = _coco_number(one, "image_id", images, "picture")
        except (ValueError, KeyError) as error:
            flaws.append(f"annotations[{number}]: {_problem(error)}")
            continue
        place = f"annotations[{number}] of picture {image}{_file_name(images[image])}"
        label = ""
        try:
            label = names[_coco_number(one, "category_id", names, "category")]
        except (ValueError, KeyError) as error:
            flaws.append(f"{place}: {_problem(error)}")
        try:
            crowd = "iscrowd" in one and one.flag("iscrowd")
            boxes[image].append(MarkedBox(label=label, corners=_coco_corners(one), ignored=crowd))
        except (ValueError, KeyError) as error:
            flaws.append(f"{place}: {_problem(error)}")
            unplaced.add(image)
    found = []
    for number, one in images.items():
        try:
            picture = _coco_picture(one, exact, ends, tuple(boxes[number]))
            found.append(picture._replace(unplaced=number in unplaced))
        except (ValueError, KeyError) as error:
            flaws.append(f"picture {number}: {_problem(error)}")
    return found, len(images) - len(found)


def _by_id(content: JsonFields, name: str) -> dict[int, JsonFields]:
    """Returns the objects of a list by their ids.

    Raises:
        ValueError: two have one id.
    """
    found: dict[int, JsonFields] = {}
    for one in content.objects(name):
        number = _coco_id(one, "id")
        if found.setdefault(number, one) is not one:
            raise ValueError(f"`{name}` has the id {number} more than once.")
    return found


def _coco_number(fields: JsonFields, name: str, known: Container[int], what: str) -> int:
    number = _coco_id(fields, name)
    if number not in known:
        raise ValueError(f"`{name}` (={number}) is not the id of a {what}.")
    return number


def _coco_id(fields: JsonFields, name: str) -> int:
    """Returns an id, which some programs write as 3.0."""
    try:
        return fields.integer(name, least=0, most=MAX_ID)
    except ValueError:
        with suppress(ValueError):
            number = fields.number(name)
            if number.is_integer() and 0 <= number < MAX_ID:  # beyond, it may be another one, rounded
                return int(number)
        raise


def _file_name(image: JsonFields) -> str:
    """Returns a picture's file name in brackets, or nothing if it has no valid one."""
    try:
        return f" ({image.text('file_name')})"
    except (ValueError, KeyError):
        return ""


def _coco_corners(fields: JsonFields) -> tuple[float, float, float, float]:
    """Returns the corners of a thing's box, or the bounds of its polygons if it has no box."""
    box = fields.number_list("bbox") if "bbox" in fields else ()
    if len(box) == 4:
        x, y, width, height = box
        return x, y, x + width, y + height
    if box or "segmentation" not in fields:
        raise ValueError(f"`bbox` (={list(box)}) must be 4 numbers." if "bbox" in fields else "`bbox` is missing.")
    polygons = fields.number_lists("segmentation")
    if not polygons or any(len(one) < 6 or len(one) % 2 for one in polygons):
        raise ValueError("`bbox` is missing, so `segmentation` must be polygons of at least three points.")
    across = [place for one in polygons for place in one[::2]]
    down = [place for one in polygons for place in one[1::2]]
    return min(across), min(down), max(across), max(down)


def _coco_picture(
    fields: JsonFields, exact: Mapping[str, str], ends: Mapping[str, list[str]], boxes: tuple[MarkedBox, ...]
) -> MarkedPicture:
    """Returns a picture that is named by its path, or by the end of one that is not hidden."""
    file = fields.text("file_name")
    path = composed(str(PurePosixPath(file)))
    places = [exact[path]] if path in exact else ends.get(path, [])
    if len(places) != 1:
        raise ValueError(f"{file} {'exists more than once' if places else 'is missing'}.")
    size = tuple(fields.integer(side, least=0, most=2**31) for side in ("width", "height") if side in fields)
    claimed = (size[0], size[1]) if len(size) == 2 and min(size) > 0 else None
    return MarkedPicture(file=places[0], size=claimed, boxes=boxes)


def _problem(error: ValueError | KeyError) -> str:
    return f"`{error.args[0]}` is missing." if isinstance(error, KeyError) else str(error)


def _by_end(names: frozenset[str]) -> dict[str, list[str]]:
    """Returns the paths, keyed by every composed suffix of theirs: `c.jpg`, `b/c.jpg` and `a/b/c.jpg`."""
    ends: dict[str, list[str]] = defaultdict(list)
    for name in names:
        parts = PurePosixPath(composed(name)).parts
        for first in range(len(parts)):
            ends["/".join(parts[first:])].append(name)
    return ends
