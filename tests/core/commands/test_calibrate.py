from collections.abc import Callable
from dataclasses import replace
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
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.registry import Network
from twinsight_core.packages import ModelCard, load_package, save_package
from twinsight_core.training.classifier import at_temperature

BACKBONE = ResNetConfig(depths=(1,), widths=(4,), stem="small")
CLASSIFIER = ClassifierConfig(backbone=BACKBONE, classes=2)
SIZE = Preprocessing(height_px=8, width_px=8)


def run(command: object, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments])  # type: ignore[arg-type]  # a click command


def card(config: ClassifierConfig) -> ModelCard:
    return ModelCard(
        architecture="classifier",
        config=config,
        task=config.TASK,
        preprocessing=SIZE,
        dimension=0,
        licence="",
        training_data="",
        description="",
        labels=("dark", "light"),
        scores={"expected_calibration_error": 0.5, "calibration_error_by_chance": 0.4, "top1_accuracy": 0.9},
    )


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
    rng = np.random.default_rng(0)
    graph, state = nnx.split(nnx.eval_shape(lambda: Classifier(config=CLASSIFIER, rngs=nnx.Rngs(0))))
    drawn = nnx.map_state(lambda _, leaf: jnp.asarray(rng.uniform(0.1, 1.0, leaf.shape), jnp.float32), state)
    network = nnx.merge(graph, drawn)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
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
