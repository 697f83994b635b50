"""Class folders as labels of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as Pillow

from twinsight_core.commands.labelled import labelled_pictures
from twinsight_core.errors import TrainingError
from twinsight_core.packages import ModelPackage, shipped_packages

LABELS = ("legs/hosen", "tops/hat", "tops/shirt")


@pytest.fixture
def model() -> ModelPackage:
    (garments,) = (one for one in shipped_packages() if one.name == "garments")
    return replace(garments, card=replace(garments.card, labels=LABELS))


def written(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Pillow.new("RGB", (10, 12)).save(folder / name)
    return folder


@pytest.mark.parametrize("above", ["", "set/", "test/", "set/tops/tops/"])
def test_classes_that_share_a_folder_above_are_labels_with_it(above: str, model: ModelPackage, tmp_path: Path) -> None:
    data = written(tmp_path / "data", f"{above}tops/shirt/1.png", f"{above}tops/hat/2.png", f"{above}tops/hat/3.png")
    read = labelled_pictures(model, data, skip_bad=False)
    assert read.classes == LABELS
    assert sorted(read.labels.tolist()) == [1, 1, 2]


def test_classes_that_are_labels_no_way_are_named_as_they_are(model: ModelPackage, tmp_path: Path) -> None:
    data = written(tmp_path / "data", "tops/shirt/1.png", "tops/cap/2.png")
    with pytest.raises(TrainingError, match="has no labels for these classes: cap, shirt; available: legs/hosen"):
        labelled_pictures(model, data, skip_bad=False)
