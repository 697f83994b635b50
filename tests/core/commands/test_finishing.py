import stat
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.commands.finishing import card_scores, finish, recipe
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.packages import MAX_SCORED_LABELS
from twinsight_core.training.report import Findings, Mistake
from twinsight_core.training.runs import Run, Watching

CONFIG = ClassifierConfig(backbone=MobileNetConfig(width_multiplier=0.1), classes=2)
FINDINGS = Findings("2 pictures.", {"top1_accuracy": 0.5}, mistakes=[Mistake((np.zeros((8, 8, 3), np.uint8),), "Ada")])


def test_a_recipe_is_the_command_without_paths_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["twinsight", "train", "cnn", "--data", "/home/me/x", "--out=/tmp/y", "--steps", "5", "--resume",
             "--description", "some words", "--licence=MIT", "--skip-bad", "--pairs", "/home/me/list"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    assert recipe() == "twinsight train cnn --data DATA --out OUT --steps 5 --skip-bad --pairs PAIRS"


@pytest.mark.parametrize("name", ["exclude", "annotations"])
def test_a_recipe_tells_no_other_file_of_the_machine_either(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["twinsight", "train", f"--{name}", "/home/me/file", f"--{name}=/home/me/other"])
    assert recipe() == f"twinsight train --{name} {name.upper()} --{name} {name.upper()}"


def test_a_recipe_names_a_model_by_its_folder_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["twinsight", "train", "cnn", "--start", "/home/me/models/first", "--teacher=/home/me/models/large/"]
    monkeypatch.setattr(sys, "argv", words)
    assert recipe() == "twinsight train cnn --start first --teacher large"


def test_scores_of_each_class_are_in_the_card_where_there_are_not_many() -> None:
    labels = [str(number) for number in range(MAX_SCORED_LABELS)]
    scores = {"top1_accuracy": 0.33333} | dict.fromkeys((f"recall_{label}" for label in labels), 0.5)
    assert card_scores(scores, labels) == scores | {"top1_accuracy": 0.3333}
    assert card_scores(scores | {"recall_more": 0.5}, [*labels, "more"]) == {"top1_accuracy": 0.3333}


@pytest.fixture
def run(write_drawings: Callable[..., None], tmp_path: Path) -> Run:
    """A run that has read its pictures."""
    write_drawings(tmp_path / "set.zip", groups=1, classes=2, pictures=2)
    run = Run(
        data=tmp_path / "set.zip",
        out=tmp_path / "models" / "people",
        start="none",
        backbone="mobilenet",
        size=32,
        augmentation="photos",
        steps=1,
        learning_rate=1e-3,
        frozen_blocks=0,
        skip_bad=False,
        exclude=None,
        resume=False,
        seed=0,
        description="",
        licence="",
        training_data="",
    )
    assert len(run.pictures()) == 4
    return run


def finished(run: Run) -> str:
    """Ends a run whose network has weights that are all alike; returns the report."""
    made = nnx.eval_shape(lambda: Classifier(config=CONFIG, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(made)
    network = nnx.merge(graph, nnx.map_state(lambda _, leaf: jnp.full(leaf.shape, 0.1, jnp.float32), state))
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    with closing(Watching(run)) as watching:
        finish(run, replace(run.card(CONFIG, ""), labels=("a", "b")), network, FINDINGS, watching)
    return (run.out / "report.html").read_text()


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_decoded_pictures_are_their_owners_alone_and_go_once_the_package_is_written(run: Run) -> None:
    assert list(run.cache.glob("*.npy"))
    assert permissions(run.cache) == 0o700
    run.work.chmod(0o755)  # as an earlier version made it
    run.begin({}, data={}, network=CONFIG, start=None)
    assert permissions(run.work) == 0o700
    (run.checkpoints / "1").mkdir(parents=True)
    replace(run, resume=True).begin({}, data={}, network=CONFIG, start=None)
    assert list(run.cache.glob("*.npy"))
    finished(run)
    assert not run.cache.exists()
    assert (run.checkpoints / "1").exists()
    assert len(run.pictures()) == 4  # for another run


def test_decoded_pictures_that_can_not_be_deleted_are_named(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run.cache.rename(tmp_path / "elsewhere")
    run.cache.symlink_to(tmp_path / "elsewhere")
    finished(run)
    assert f"can't delete the decoded pictures in {run.cache}: " in caplog.text


def test_the_report_shows_pictures_and_names_unless_they_are_not_wanted(run: Run) -> None:
    shown = finished(run)
    assert "data:image/jpeg" in shown
    assert "Ada" in shown
    without = finished(replace(run, report_pictures=False))
    assert "data:image/jpeg" not in without
    assert "Ada" not in without
    assert "top1_accuracy" in without
