"""Detect, with a detector that sees red: its answers can be worked out by hand, whatever becomes of the picture."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import grpc
import numpy as np
import pytest
from PIL import Image as Pillow

from e2e import errors
from e2e.conftest import Dynamic, Reflected
from twinsight_core.executors.base import Executor
from twinsight_core.executors.choice import ChosenExecutor, ExecutorKind
from twinsight_core.images import Preprocessing
from twinsight_core.packages import ModelPackage, shipped_packages
from twinsight_server.app import Server
from twinsight_server.config import ServerConfig

LABELS = ("red thing", "corner", "dust")
WIDTH, HEIGHT = 400, 200
# Of the picture, which is 400 x 200: the reds' edges in pixels.
RED = (100, 40, 300, 120)
# Of the input, which is 80 x 80: what resizing blurs.
PIXEL = 1 / 80


@dataclass(frozen=True)
class _Config:
    """Stands where an architecture's configuration does."""

    TASK: ClassVar[str] = "detection"
    answer_shape: tuple[int, ...] = (5, 6)


@dataclass(frozen=True)
class _Package(ModelPackage):
    def build(self) -> Any:
        return _RedFinder()


class _RedFinder:
    """Finds all that is red as one thing, and two more that are always there."""

    name = "red"
    on_host = False
    is_single_threaded = False

    def lanes(self) -> Sequence[Executor]:
        return [self]

    def prepare(self, *batch_sizes: int) -> None:
        """There is nothing to compile."""

    def compute(self, images: np.ndarray) -> np.ndarray:
        return np.stack([self._found(image.astype(np.int32)) for image in images])

    @staticmethod
    def _found(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        answer = np.zeros((5, 6), np.float32)
        rows, columns = np.nonzero(image[..., 0] - image[..., 1:].max(axis=-1) > 127)
        found = [(0.0, 0.0, 0.25, 0.25, 0.5, 1), (0.0, 0.0, 1.0, 1.0, 0.125, 2)]
        if len(rows):
            red = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
            found.insert(0, (*red, 0.875, 0))
        answer[: len(found)] = found
        return answer


def packages() -> dict[str, ModelPackage]:
    base = shipped_packages()[0]
    made: dict[str, ModelPackage] = {base.name: base}
    for fit in ("stretch", "crop", "pad"):
        card = replace(
            base.card,
            config=_Config(),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            task="detection",
            preprocessing=Preprocessing(height_px=80, width_px=80, fit=fit),
            dimension=0,
            labels=LABELS,
            calibration=None,
        )
        made[fit] = _Package(name=fit, digest=f"sha256:{fit}", card=card, folder=base.folder)
    return made


def executor(package: ModelPackage, kind: ExecutorKind, *, cache_dir: Path) -> Any:
    return package.build() if isinstance(package, _Package) else ChosenExecutor(package, kind, cache_dir=cache_dir)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Reflected]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinsight_server.app.read_packages", lambda _: packages())
        patch.setattr("twinsight_server.inference.models.ChosenExecutor", executor)
        data_dir = tmp_path_factory.mktemp("data")
        made = Server(ServerConfig(listen="127.0.0.1:0", data_dir=data_dir, cache_dir=cache_dir, batch_size=2))
        made.start()
        client = Reflected(made.address)
        yield client
        client.close()
        made.stop()


def picture(*, orientation: int = 1, red: tuple[int, int, int, int] | None = RED) -> bytes:
    """A white picture with a red rectangle, stored so that `orientation` turns it upright."""
    drawn = Pillow.new("RGB", (WIDTH, HEIGHT), "white")
    if red is not None:
        drawn.paste((255, 0, 0), red)
    turned = {1: drawn, 6: drawn.transpose(Pillow.Transpose.ROTATE_90)}[orientation]
    exif, out = Pillow.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    turned.save(out, "PNG", exif=exif)
    return out.getvalue()


def detect(api: Reflected, image: Mapping[str, object], model: str = "stretch", /, **more: object) -> list[Dynamic]:
    (result,) = api.call("InferenceService", "Detect", model=model, images=[image], **more).results
    assert result.WhichOneof("result") == "detections"
    return list(result.detections.detections)


def edges(detection: Dynamic) -> tuple[float, float, float, float]:
    box = detection.box
    return box.x_min, box.y_min, box.x_max, box.y_max


def test_detections_have_box_label_and_score_the_highest_first(api: Reflected) -> None:
    found = detect(api, {"encoded": picture()}, score_threshold=0.0)
    assert [(one.label, one.score) for one in found] == [("red thing", 0.875), ("corner", 0.5), ("dust", 0.125)]
    assert edges(found[0]) == pytest.approx((0.25, 0.2, 0.75, 0.6), abs=PIXEL)
    assert edges(found[1]) == (0, 0, 0.25, 0.25)
    assert edges(found[2]) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("more", "labels"),
    [
        ({}, ["red thing", "corner"]),
        ({"score_threshold": 0.0}, ["red thing", "corner", "dust"]),
        ({"score_threshold": 0.5}, ["red thing", "corner"]),
        ({"score_threshold": 0.51}, ["red thing"]),
        ({"score_threshold": 1.0}, []),
        ({"max_detections": 1}, ["red thing"]),
        ({"max_detections": 2, "score_threshold": 0.0}, ["red thing", "corner"]),
        ({"max_detections": 2**31 - 1, "score_threshold": 0.0}, ["red thing", "corner", "dust"]),
    ],
)
def test_score_and_number_say_what_is_left_out(api: Reflected, more: dict[str, object], labels: list[str]) -> None:
    assert [one.label for one in detect(api, {"encoded": picture()}, **more)] == labels


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize(
    "region",
    [
        None,
        # The red's left half, with room around; wide and tall.
        (0.1, 0.0, 0.5, 1.0),
        (0.2, 0.1, 0.55, 0.7),
        (0.0, 0.0, 0.5, 1.0),
    ],
)
def test_boxes_are_of_the_whole_upright_picture(
    api: Reflected, orientation: int, fit: str, region: tuple[float, ...] | None
) -> None:
    image: dict[str, object] = {"encoded": picture(orientation=orientation)}
    x_min, y_min, x_max, y_max = region or (0.0, 0.0, 1.0, 1.0)
    if region:
        image["region"] = dict(zip(("x_min", "y_min", "x_max", "y_max"), region, strict=True))
    # What of the region the network sees: with "crop" the middle square.
    width, height = (x_max - x_min) * WIDTH, (y_max - y_min) * HEIGHT
    cut_x = max(0.0, width - height) / 2 / WIDTH if fit == "crop" else 0.0
    cut_y = max(0.0, height - width) / 2 / HEIGHT if fit == "crop" else 0.0
    seen = (x_min + cut_x, y_min + cut_y, x_max - cut_x, y_max - cut_y)
    expected = (max(0.25, seen[0]), max(0.2, seen[1]), min(0.75, seen[2]), min(0.6, seen[3]))
    # A pixel of the input, in the picture.
    longer = max(width, height) / 80
    found = detect(api, image, fit, score_threshold=0.0)
    assert edges(found[0]) == pytest.approx(expected, abs=1.1 * max(longer / WIDTH, longer / HEIGHT))
    for one in found:
        box = edges(one)
        assert x_min - 1e-6 <= box[0] < box[2] <= x_max + 1e-6
        assert y_min - 1e-6 <= box[1] < box[3] <= y_max + 1e-6
    # All that is seen is the third thing's; padding is no part of the picture.
    assert edges(found[-1]) == pytest.approx(seen, abs=1e-6)


def test_what_lies_in_the_padding_alone_is_left_out(api: Reflected) -> None:
    # 400 x 100 pixels at 80 x 80: the upper 30 rows are grey, and the corner's 20 rows lie in them.
    image = {"encoded": picture(), "region": {"x_min": 0.0, "y_min": 0.0, "x_max": 1.0, "y_max": 0.5}}
    assert [one.label for one in detect(api, image, "pad", score_threshold=0.0)] == ["red thing", "dust"]


def test_raw_pixels_are_answered_as_the_same_picture_encoded(api: Reflected) -> None:
    pixels = np.asarray(Pillow.open(io.BytesIO(picture())))
    raw = {"height": HEIGHT, "width": WIDTH, "rgb": pixels.tobytes()}
    for fit in ("stretch", "crop", "pad"):
        assert detect(api, {"raw": raw}, fit) == detect(api, {"encoded": picture()}, fit)


def test_one_bad_picture_fails_alone_and_an_empty_one_has_no_detections(api: Reflected) -> None:
    encoded = [picture(), picture(red=None), picture(), b"\x89PNG\r\n\x1a\nno", picture()]
    images = [{"encoded": one} for one in encoded]
    response = api.call("InferenceService", "Detect", model="stretch", images=images, score_threshold=0.75)
    kinds = [one.WhichOneof("result") for one in response.results]
    assert kinds == ["error" if n == 3 else "detections" for n in range(5)]
    assert (response.model.name, response.model.digest) == ("stretch", "sha256:stretch")
    error = response.results[3].error
    assert (error.code, errors.reason(error), errors.field(error)) == (3, "IMAGE_UNREADABLE", "images[3].encoded")
    assert [len(one.detections.detections) for one in response.results] == [1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("fields", "code", "reason", "field"),
    [
        ({"score_threshold": -0.1}, "INVALID_ARGUMENT", "SCORE_THRESHOLD_INVALID", "score_threshold"),
        ({"score_threshold": 1.1}, "INVALID_ARGUMENT", "SCORE_THRESHOLD_INVALID", "score_threshold"),
        ({"score_threshold": math.nan}, "INVALID_ARGUMENT", "SCORE_THRESHOLD_INVALID", "score_threshold"),
        ({"max_detections": -1}, "INVALID_ARGUMENT", "MAX_DETECTIONS_INVALID", "max_detections"),
        ({"images": []}, "INVALID_ARGUMENT", "COUNT_INVALID", "images"),
        ({"model": "base"}, "FAILED_PRECONDITION", "MODEL_TASK", "model"),
        ({"model": ""}, "INVALID_ARGUMENT", "MODEL_AMBIGUOUS", "model"),
    ],
)
def test_what_breaks_a_rule_is_refused(
    api: Reflected, fields: dict[str, object], code: str, reason: str, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        api.call("InferenceService", "Detect", **({"model": "stretch", "images": [{"encoded": picture()}]} | fields))
    status = errors.status_of(caught.value)
    assert (caught.value.code().name, errors.reason(status), errors.field(status)) == (code, reason, field)


def test_the_card_tells_task_and_labels(api: Reflected) -> None:
    card = api.call("ModelService", "GetModel", model="pad").model
    tasks = type(card).DESCRIPTOR.fields_by_name["task"].enum_type.values_by_number
    assert (tasks[card.task].name, tuple(card.labels)) == ("MODEL_TASK_DETECTION", LABELS)
