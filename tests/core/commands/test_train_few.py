"""Sets of few classes or pictures: what nobody asked for is as large as they allow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image as Pillow

from twinsight_core.commands.train import train
from twinsight_core.errors import TrainingError
from twinsight_core.training import detector, siamese
from twinsight_core.training.detector import DetectorTraining
from twinsight_core.training.siamese import SiameseTraining

SMALL = ("--start", "none", "--backbone", "glyphs", "--frozen-blocks", "0", "--steps", "2")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(train, [str(one) for one in arguments])


def test_an_embedding_of_few_classes_needs_no_options(
    write_drawings: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "classes.zip"
    write_drawings(data, groups=1, classes=8, pictures=6)
    begun: list[int] = []

    def trained(*arguments: object, **others: object) -> None:
        del others
        begun.extend(one.classes for one in arguments if isinstance(one, SiameseTraining))
        raise TrainingError("far enough", reason="ENOUGH")

    monkeypatch.setattr(siamese, "train_siamese", trained)
    done = run("siamese", "--data", data, "--out", tmp_path / "few", *SMALL, "--size", "24")
    assert "far enough" in done.stderr
    assert begun == [4]
    asked = run("siamese", "--data", data, "--out", tmp_path / "x", *SMALL, "--size", "24", "--classes", "16")
    assert asked.exit_code == 1
    assert "There are 4 classes with at least two pictures to train on; a batch needs 16 (`classes`)." in asked.stderr


def test_a_detector_of_few_pictures_needs_no_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    listed = []
    for number in range(7):
        Pillow.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
        listed.append({"id": number, "file_name": f"{number}.png", "width": 32, "height": 32})
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [4, 4, 16, 16], "area": 256} for n in range(7)]
    coco = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    batches: list[int] = []

    def trained(*arguments: object, **others: object) -> None:
        del others
        batches.extend(one.batch for one in arguments if isinstance(one, DetectorTraining))
        raise TrainingError("far enough", reason="ENOUGH")

    monkeypatch.setattr(detector, "train_detector", trained)
    done = run("rcnn", "--data", folder, "--annotations", tmp_path / "boxes.json", "--out", tmp_path / "few", *SMALL,
               "--size", "32", "--width", "0")  # fmt: skip
    assert "far enough" in done.stderr
    assert batches == [5]
