import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner, Result
from flax import nnx
from PIL import Image as Pillow

from twinsight_core.commands.calibrate import calibrate
from twinsight_core.commands.evaluate import evaluate
from twinsight_core.images import Preprocessing
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.rcnn import FasterRCNN
from twinsight_core.models.registry import Network
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.packages import ModelCard, save_package

BACKBONE = MobileNetConfig(width_multiplier=0.1)
EMBEDDING = SiameseConfig(backbone=BACKBONE, dimension=8)
CLASSIFIER = ClassifierConfig(backbone=BACKBONE, classes=2)
DETECTOR = FasterRCNNConfig(backbone=BACKBONE, classes=1, pyramid_channels=8, head_width=8)

Config = SiameseConfig | ClassifierConfig | FasterRCNNConfig


def written(folder: Path, config: Config, make: Callable[[], Network]) -> Path:
    """Writes a package whose weights are all alike."""
    graph, state = nnx.split(nnx.eval_shape(make))
    network = nnx.merge(graph, nnx.map_state(lambda _, leaf: jnp.full(leaf.shape, 0.1, jnp.float32), state))
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    kinds = {"embedding": "siamese", "classification": "classifier", "detection": "faster_rcnn"}
    card = ModelCard(
        architecture=kinds[config.TASK],
        config=config,
        task=config.TASK,
        preprocessing=Preprocessing(height_px=32, width_px=32),
        dimension=config.dimension if isinstance(config, SiameseConfig) else 0,
        licence="",
        training_data="",
        description="",
        labels=() if isinstance(config, SiameseConfig) else tuple("ab"[: config.classes]),
    )
    save_package(folder / config.TASK, card, network)
    return folder / config.TASK


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package for each task, named for it."""
    folder = tmp_path_factory.mktemp("models")
    written(folder, EMBEDDING, lambda: SiameseNetwork(config=EMBEDDING, rngs=nnx.Rngs(0)))
    written(folder, CLASSIFIER, lambda: Classifier(config=CLASSIFIER, rngs=nnx.Rngs(0)))
    written(folder, DETECTOR, lambda: FasterRCNN(config=DETECTOR, rngs=nnx.Rngs(0)))
    return folder


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(evaluate, [str(one) for one in arguments])


def test_pictures_of_a_list_that_can_not_be_read_are_left_out_where_that_is_asked(models: Path, tmp_path: Path) -> None:
    for number in range(6):
        Pillow.fromarray(np.full((40, 40, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "5.png").write_bytes(b"no picture")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "0.png,1.png,1\n2.png,3.png,1\n1.png,0.png,1\n4.png,5.png,1\n0.png,2.png,0\n1.png,4.png,0\n3.png,5.png,0\n"
    )
    arguments = ("--model", models / "embedding", "--data", tmp_path, "--pairs", pairs, "--json")
    done = run(*arguments)
    assert done.exit_code == 1
    assert "1 pictures can't be read; --skip-bad leaves them out:\n  5.png: " in done.stderr
    done = run(*arguments, "--skip-bad")
    assert done.exit_code == 0, done.output
    protocol = json.loads(done.stdout)["protocol"]
    assert protocol.startswith("2 same and 2 different pairs, as listed.")
    assert "1 lines list a pair again, or exact copies of its pictures, and are ignored" in protocol
    assert protocol.endswith(" 1 pictures of the set can't be used and are left out.")
    done = CliRunner().invoke(calibrate, [str(one) for one in (*arguments[:-1], "--skip-bad")])
    assert "; --skip-bad leaves them out" not in done.stderr  # so few pairs can't be fitted
    assert done.exit_code == 1


@pytest.mark.parametrize("model", ["classification", "embedding"])
def test_the_protocol_counts_what_is_left_out_of_class_folders(model: str, models: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("a/0", "a/1", "a/2", "b/0", "b/1")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Pillow.fromarray(np.full((40, 40, 3), 40 * number, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "a" / "2.png").write_bytes(b"no picture")
    arguments = ("--model", models / model, "--data", tmp_path, "--skip-bad")
    for done in (run(*arguments), run(*arguments, "--json")):
        assert done.exit_code == 0, done.output
        assert "4 pictures" in done.stdout
        assert " 1 pictures of the set can't be used and are left out." in done.stdout


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("classification", ("--pairs", "x"), "--pairs must not be given with `classification`: a classifier is"),
        ("classification", ("--groups",), "--groups must not be given with `classification`: "),
        ("classification", ("--annotations", "x"), "--annotations must not be given with `classification`: "),
        ("classification", ("--image-set", "val"), "--image-set must not be given with `classification`: "),
        ("embedding", ("--annotations", "x"), "--annotations must not be given with `embedding`: an embedding is"),
        ("embedding", ("--image-set", "val"), "--image-set must not be given with `embedding`: "),
        ("embedding", ("--pairs", "x", "--groups"), "--groups must not be given with --pairs: a list of pairs has no"),
        ("detection", ("--pairs", "x"), "--pairs must not be given with `detection`: a detector is measured on boxes."),
        ("detection", ("--groups",), "--groups must not be given with `detection`: "),
        ("detection", ("--annotations", "x", "--image-set", "val"), "--image-set must not be given with --annotations"),
    ],
)
def test_an_option_without_effect_is_refused(
    model: str, options: tuple[str, ...], message: str, models: Path, tmp_path: Path
) -> None:
    done = run("--model", models / model, "--data", tmp_path, *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("classification", ("--pairs", "x"), "--pairs must not be given with `classification`: a classifier's temper"),
        ("classification", ("--seed", "1"), "--seed must not be given with `classification`: "),
        ("embedding", ("--pairs", "x", "--groups"), "--groups must not be given with --pairs: a list of pairs has no"),
    ],
)
def test_calibrate_refuses_options_without_effect(
    model: str, options: tuple[str, ...], message: str, models: Path, tmp_path: Path
) -> None:
    words = ["--model", str(models / model), "--data", str(tmp_path), "--out", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(calibrate, words)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_what_a_package_says_is_no_command_to_the_terminal_and_no_line_of_its_own(models: Path, tmp_path: Path) -> None:
    card = json.loads((models / "embedding" / "model.json").read_text())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.json").write_text(json.dumps(card | {"\x1b]0;owned\x07\nall good": 1}))
    done = run("--model", tmp_path / "bad", "--data", tmp_path)
    assert done.exit_code == 1
    assert done.stderr.endswith("model.json: `\\x1b]0;owned\\x07\\nall good` is unknown.\n")
    assert done.stderr.count("\n") == 1


def test_an_option_that_is_refused_says_the_packages_name_without_commands_to_the_terminal(
    models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "classification", tmp_path / "a\x1b[31mb")
    done = run("--model", tmp_path / "a\x1b[31mb", "--data", tmp_path, "--groups")
    assert "`a\\x1b[31mb`" in done.stderr
    assert "\x1b" not in done.stderr
