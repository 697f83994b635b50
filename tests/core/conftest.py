"""Small pictures of classes that a tiny network can learn, for tests of training."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageDraw

SIDE = 24


def drawing(label: int, number: int) -> Pillow.Image:
    """A polygon whose corners are the label's, moved a little by the number, dark on light."""
    corners = np.random.default_rng(label).uniform(3, SIDE - 3, (4, 2))
    corners += np.random.default_rng((label, number)).normal(0, 0.7, corners.shape)
    picture = Pillow.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(picture).line([tuple(map(float, one)) for one in (*corners, corners[0])], fill="black", width=2)
    return picture


def _write(path: Path, *, groups: int, classes: int, pictures: int) -> None:
    """Writes a zip of `groupA/classB/C.png`; with one group the group's folder is left out."""
    with zipfile.ZipFile(path, "w") as archive:
        for label in range(groups * classes):
            folder = f"class{label:02}" if groups == 1 else f"group{label // classes}/class{label:02}"
            for number in range(pictures):
                out = io.BytesIO()
                drawing(label, number).save(out, "PNG")
                archive.writestr(f"{folder}/{number}.png", out.getvalue())


class WriteDrawings(Protocol):
    def __call__(self, path: Path, *, groups: int, classes: int, pictures: int) -> None: ...


@pytest.fixture(scope="session")
def write_drawings() -> WriteDrawings:
    """Writes a zip of class folders."""
    return _write


@pytest.fixture
def evaluated_by_pycocotools(tmp_path: Path) -> Callable[[object, Sequence[object]], Any]:
    """Returns pycocotools' evaluation of boxes found, both in COCO's format, from `truth.json` and `found.json`."""
    coco = pytest.importorskip("pycocotools.coco", reason="the extra `train` is not installed")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")

    def evaluated(truth: object, found: Sequence[object]) -> Any:
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        (tmp_path / "found.json").write_text(json.dumps(found))
        with contextlib.redirect_stdout(io.StringIO()):
            known = coco.COCO(str(tmp_path / "truth.json"))
            evaluation = cocoeval.COCOeval(known, known.loadRes(str(tmp_path / "found.json")), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation

    return evaluated
