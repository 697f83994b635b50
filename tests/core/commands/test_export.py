from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from twinsight_core.commands.export import export
from twinsight_core.images import Preprocessing
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.packages import ModelCard, save_package

CONFIG = ClassifierConfig(backbone=ResNetConfig(depths=(1,), widths=(2,), stem="small"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with one small classifier, `tiny`."""
    card = ModelCard(
        architecture="classifier",
        config=CONFIG,
        task="classification",
        preprocessing=Preprocessing(height_px=12, width_px=8),
        dimension=0,
        licence="",
        training_data="",
        description="",
        labels=("cat", "dog"),
    )
    save_package(tmp_path / "models" / "tiny", card, drawn(partial(Classifier, config=CONFIG), seed=0))
    return tmp_path / "models"


@pytest.mark.parametrize("by", ["name", "path"])
def test_a_package_is_exported_by_its_name_or_its_path(models: Path, tmp_path: Path, by: str) -> None:
    named = ["--model", "tiny", "--models-dir", str(models)] if by == "name" else ["--model", str(models / "tiny")]
    out = tmp_path / "tiny.bin"
    done = CliRunner().invoke(export, [*named, "--format", "stablehlo", "--out", str(out)])
    assert done.exit_code == 0, done.output
    said = f"{out}: stablehlo, {out.stat().st_size} bytes, any batch size, pictures of 12x8, largest difference "
    assert done.stdout.startswith(said)


def test_an_unknown_model_is_one_line_and_status_one(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    done = CliRunner().invoke(export, ["--model", "none", "--format", "onnx", "--out", str(out)])
    assert done.exit_code == 1
    assert done.stderr.startswith("twinsight: Model `none` does not exist")
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_a_folder_that_can_not_be_written_is_one_line_and_status_one(models: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    options = ["--format", "stablehlo", "--out", str(tmp_path / "file" / "out.bin")]
    done = CliRunner().invoke(export, ["--model", str(models / "tiny"), *options])
    assert done.exit_code == 1
    assert done.stderr == f"twinsight: {tmp_path / 'file'}: File exists\n"
