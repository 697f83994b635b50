from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner, Result
from flax import nnx
from PIL import Image as Pillow

from twinsight_core.commands.calibrate import SAME_CLASS, SAME_PAIR, calibrate
from twinsight_core.commands.evaluate import evaluate
from twinsight_core.images import Preprocessing
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.registry import Network
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.packages import ModelCard, load_package, save_package
from twinsight_core.training.classifier import at_temperature

N = TypeVar("N", Classifier, SiameseNetwork)

BACKBONE = ResNetConfig(depths=(1,), widths=(4,), stem="small")
CLASSIFIER = ClassifierConfig(backbone=BACKBONE, classes=2)
EMBEDDING = SiameseConfig(backbone=BACKBONE, dimension=8)
SIZE = Preprocessing(height_px=8, width_px=8)


def run(command: object, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments])  # type: ignore[arg-type]  # a click command


def card(config: ClassifierConfig | SiameseConfig) -> ModelCard:
    is_classifier = isinstance(config, ClassifierConfig)
    return ModelCard(
        architecture="classifier" if is_classifier else "siamese",
        config=config,
        task=config.TASK,
        preprocessing=SIZE,
        dimension=0 if isinstance(config, ClassifierConfig) else config.dimension,
        licence="",
        training_data="",
        description="",
        labels=("dark", "light") if is_classifier else (),
        scores={"expected_calibration_error": 0.5, "calibration_error_by_chance": 0.4, "top1_accuracy": 0.9},
    )


def drawn(make: Callable[[], N], *, least: float) -> N:
    """A network in evaluation mode whose weights are drawn from `least`..1."""
    rng = np.random.default_rng(0)
    graph, state = nnx.split(nnx.eval_shape(make))
    weights = nnx.map_state(
        lambda _, leaf: jnp.asarray(rng.uniform(least if leaf.ndim > 1 else 0.1, 1.0, leaf.shape), jnp.float32), state
    )
    network = nnx.merge(graph, weights)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    return network


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of 40 dark and 40 light pictures, some of them hard to tell."""
    folder = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(0)
    for name, grey in (("dark", 90), ("light", 160)):
        (folder / name).mkdir()
        for number in range(40):
            pixels = rng.normal(rng.normal(grey, 30), 10, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Pillow.fromarray(pixels).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    """Tells dark from light, too sure of itself by far."""
    network = drawn(lambda: Classifier(config=CLASSIFIER, rngs=nnx.Rngs(0)), least=0.1)
    greys = jnp.asarray(np.array([90, 160])[:, None, None, None] * np.ones((1, 8, 8, 3)), jnp.uint8)
    dark, light = network.features(greys)
    across = (light - dark) / jnp.sum((light - dark) ** 2)
    network.head.kernel[...] = 20.0 * jnp.stack([-across, across], axis=1)
    middle = 20.0 * across @ (dark + light) / 2
    assert network.head.bias is not None
    network.head.bias[...] = jnp.stack([middle, -middle])
    return network


@pytest.fixture(scope="module")
def written(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Writes the classifier's package at a temperature."""
    folder = tmp_path_factory.mktemp("models")

    def write(temperature: float) -> Path:
        config = replace(CLASSIFIER, temperature=temperature)
        network: Network = at_temperature(classifier, CLASSIFIER, temperature)
        save_package(folder / f"at{temperature:g}", card(config), network)
        return folder / f"at{temperature:g}"

    return write


def test_a_temperature_is_fitted_to_the_logits_whatever_it_was_before(
    written: Callable[[float], Path], shades: Path, tmp_path: Path
) -> None:
    found = []
    for temperature in (1.0, 0.01):
        out = tmp_path / f"from{temperature:g}"
        done = run(calibrate, "--model", written(temperature), "--data", shades, "--out", out)
        assert done.exit_code == 0, done.output
        found.append(load_package(out).card)
    config = found[0].config
    assert isinstance(config, ClassifierConfig)
    assert config.temperature > 2
    assert found[1] == found[0]
    # Both figures are of the new temperature: one is nothing without the other.
    scores = found[0].scores
    assert scores["expected_calibration_error"] < 0.25
    assert scores["calibration_error_by_chance"] < 0.25
    assert scores["top1_accuracy"] == 0.9


def test_the_likelihood_of_a_sure_classifier_is_measured_and_not_that_of_what_float32_holds(
    written: Callable[[float], Path], shades: Path
) -> None:
    values = []
    for temperature in (1.0, 0.01):
        done = run(evaluate, "--model", written(temperature), "--data", shades)
        assert done.exit_code == 0, done.output
        values.append(float(next(line for line in done.stdout.splitlines() if "likelihood" in line).split()[1]))
    # What is wrong costs its gap between logits / temperature: 100 and more, of which exp is no float32.
    assert values[0] > 0.1
    assert values[1] == pytest.approx(100 * values[0], rel=0.3)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of an embedding with random weights."""
    folder = tmp_path_factory.mktemp("models") / "random"
    save_package(folder, card(EMBEDDING), drawn(lambda: SiameseNetwork(config=EMBEDDING, rngs=nnx.Rngs(0)), least=-1.0))
    return folder


@pytest.fixture
def things(tmp_path: Path) -> Path:
    """Class folders of 12 colours, three pictures each, and a list of pairs of them, of one colour and of two."""
    rng = np.random.default_rng(1)
    lines = []
    for number in range(12):
        folder = tmp_path / "things" / f"{number:02}"
        folder.mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for one in range(3):
            pixels = (colour + rng.normal(0, 4, (8, 8, 3))).clip(0, 255).astype(np.uint8)
            Pillow.fromarray(pixels).save(folder / f"{one}.png")
        lines += [f"{number:02}/0.png,{number:02}/1.png,1,{number % 2}"]
        lines += [f"{number:02}/0.png,{(number + 2) % 12:02}/1.png,0,{number % 2}"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    return tmp_path


def test_the_meaning_is_of_classes_or_of_the_list_as_the_data_is(embedding: Path, things: Path) -> None:
    data = ("--model", embedding, "--data", things / "things")
    for options, meaning in (
        ((), SAME_CLASS),
        (("--pairs", things / "pairs.csv"), SAME_PAIR),
        (("--meaning", "One colour."), "One colour."),
    ):
        done = run(calibrate, *data, *options, "--out", things / "out")
        assert done.exit_code == 0, done.output
        calibration = load_package(things / "out").card.calibration
        assert calibration is not None
        assert calibration.meaning == meaning
        assert ("take the pairs for independent" in done.stdout) == ("--pairs" in options)


def test_a_package_is_written_to_the_folder_that_one_is_in(
    embedding: Path, things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(things)
    (things / "mine").mkdir()
    for _ in range(2):  # into an empty folder, and in place of a package
        monkeypatch.chdir(things / "mine")
        done = run(calibrate, "--model", embedding, "--data", things / "things", "--out", ".")
        assert done.exit_code == 0, done.output
        assert load_package(things / "mine").name == "mine"
    assert sorted(one.name for one in things.iterdir()) == ["mine", "pairs.csv", "things"]


def test_a_seed_below_0_is_refused(embedding: Path, things: Path) -> None:
    done = run(calibrate, "--model", embedding, "--data", things / "things", "--out", things / "out", "--seed", "-1")
    assert done.exit_code == 2
    assert "Invalid value for '--seed': -1 is not in the range x>=0." in done.stderr


def test_a_list_that_is_left_with_pairs_of_one_kind_is_refused(embedding: Path, things: Path) -> None:
    for number in range(12):
        (things / "things" / f"{number:02}" / "1.png").write_bytes(b"no picture")
    lines = (f"{number:02}/0.png,{number:02}/{1 + number % 2}.png,{number % 2},{number % 2}" for number in range(12))
    (things / "pairs.csv").write_text("\n".join(lines))
    done = run(calibrate, "--model", embedding, "--data", things / "things", "--pairs", things / "pairs.csv",
               "--out", things / "out", "--skip-bad")  # fmt: skip
    assert done.exit_code == 1, done.output
    assert "no calibration can be fitted: `same` must hold pairs of both kinds." in done.stderr
