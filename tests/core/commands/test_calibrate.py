import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
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
    """Class folders of 60 dark and 60 light pictures, some of them hard to tell."""
    folder = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(0)
    for name, grey in (("dark", 90), ("light", 160)):
        (folder / name).mkdir()
        for number in range(60):
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
    # So are the accuracies, here of as many pictures of each class; the card's were of others.
    assert scores["top1_accuracy"] == scores["balanced_accuracy"] != 0.9
    assert scores["recall_dark"] + scores["recall_light"] == pytest.approx(2 * scores["balanced_accuracy"], abs=1e-3)


def test_a_classifier_is_not_measured_on_copies_of_what_it_was_fitted_to(
    written: Callable[[float], Path], shades: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    twice = tmp_path / "twice"
    shutil.copytree(shades, twice)
    for picture in shades.glob("*/*.png"):
        shutil.copy(picture, twice / picture.parent.name / f"{picture.stem} (1).png")
    shutil.copy(shades / "dark/00.png", twice / "light/dark.png")
    cards = []
    with caplog.at_level(logging.INFO, "twinsight_core.training.copies"):
        for data in (shades, twice):
            out = tmp_path / f"of-{data.name}"
            done = run(calibrate, "--model", written(1.0), "--data", data, "--out", out)
            assert done.exit_code == 0, done.output
            cards.append(load_package(out).card)
    assert "121 pictures are exact copies of others; copies are left out" in caplog.text
    assert "the same picture is in several classes: dark/00 (1).png, dark/00.png, light/dark.png" in caplog.text
    configs = [card.config for card in cards]
    assert all(isinstance(config, ClassifierConfig) for config in configs)
    temperatures = [config.temperature for config in configs if isinstance(config, ClassifierConfig)]
    # One picture fewer, which is in both classes.
    assert temperatures[1] == pytest.approx(temperatures[0], rel=0.2)


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
    """Class folders of 12 colours, seven pictures each, and a list of pairs of them, of one colour and of two."""
    rng = np.random.default_rng(1)
    files = []
    for number in range(12):
        folder = tmp_path / "things" / f"{number:02}"
        folder.mkdir(parents=True)
        colour = rng.integers(0, 256, 3)
        for one in range(7):
            pixels = (colour + rng.normal(0, 4, (8, 8, 3))).clip(0, 255).astype(np.uint8)
            Pillow.fromarray(pixels).save(folder / f"{one}.png")
            files.append((number, f"{number:02}/{one}.png"))
    lines = [
        f"{left},{right},{int(one == other)},{one % 2}"
        for (one, left), (other, right) in combinations(files, 2)
        if one % 2 == other % 2
    ]
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
        assert ("assume independent pairs" in done.stdout) == ("--pairs" in options)
        default = next(line.split() for line in done.stdout.splitlines() if line.startswith("default"))
        assert default[1:3] == [f"{calibration.threshold:.4f}", f"{calibration.false_match_rate:.4f}"]


def test_a_rate_that_is_asked_for_is_that_of_the_default_point(embedding: Path, things: Path) -> None:
    out = things / "out"
    found = {}
    for options in ((), ("--false-match-rate", "0.4")):
        done = run(calibrate, "--model", embedding, "--data", things / "things", "--out", out, *options)
        assert done.exit_code == 0, done.output
        calibration = load_package(out).card.calibration
        assert calibration is not None
        found[options] = calibration
        points = {one.target_fmr: one.threshold for one in calibration.operating_points}
    assert found["--false-match-rate", "0.4"].threshold == points[0.4]
    floored = found[()]
    assert floored.probability(np.array([floored.threshold]))[0] >= 0.5 - 1e-9


def test_pictures_in_two_classes_are_told_and_left_out(
    embedding: Path, things: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(calibrate, "--model", embedding, "--data", things / "things", "--out", things / "without")
    shutil.copy(things / "things/00/0.png", things / "things/07/copy.png")
    caplog.clear()
    done = run(calibrate, "--model", embedding, "--data", things / "things", "--out", things / "with")
    assert done.exit_code == 0, done.output
    assert "the same picture is in several classes: 00/0.png, 07/copy.png" in caplog.text
    before, after = (load_package(things / name).card.calibration for name in ("without", "with"))
    assert before is not None
    assert after is not None
    assert after.pairs_fitted + after.pairs_measured < before.pairs_fitted + before.pairs_measured


def test_a_card_says_what_it_was_calibrated_on_last_and_the_command_what_follows(embedding: Path, things: Path) -> None:
    mine = things / "mine"
    shutil.copytree(embedding, mine)
    model = mine / "model.json"
    model.write_text(model.read_text().replace('"training_data": ""', '"training_data": "Colours, calibrated well."'))
    said = "; what else is said here of a calibration or scores is older."
    for options, name in (((), "things"), (("--pairs", things / "pairs.csv"), "pairs.csv")):
        before = load_package(mine).digest
        done = run(calibrate, "--model", mine, "--data", things / "things", *options)
        assert done.exit_code == 0, done.output
        card = load_package(mine).card
        assert card.training_data == f"Colours, calibrated well. Calibrated later on {name}{said}"
        assert f"Collections of {before} then take pictures only where that model is served too." in done.stderr
    elsewhere = run(calibrate, "--model", mine, "--data", things / "things", "--out", things / "out")
    assert "Servers take it" not in elsewhere.stderr


def test_a_calibration_is_measured_on_other_data(embedding: Path, things: Path) -> None:
    data = ("--data", things / "things")
    assert "false_match_rate" not in run(evaluate, "--model", embedding, *data).stdout
    run(calibrate, "--model", embedding, *data, "--out", things / "out")
    calibration = load_package(things / "out").card.calibration
    assert calibration is not None
    for options in ((), ("--pairs", things / "pairs.csv")):
        done = run(evaluate, "--model", things / "out", *data, *options, "--json")
        assert done.exit_code == 0, done.output
        measured = json.loads(done.stdout)
        scores = measured["scores"]
        for name in ("false_match_rate", "false_non_match_rate"):
            assert 0 <= scores[f"{name}_low"] <= scores[name] <= scores[f"{name}_high"] <= 1
        assert 0 < scores["expected_calibration_error"] < 0.5
        assert f"at its default threshold ({calibration.threshold:.4f})." in measured["protocol"]


def test_pairs_too_few_for_the_default_thresholds_rate_are_refused(embedding: Path, things: Path) -> None:
    for options, message in (
        (("--false-match-rate", "0.004"), "a false match rate of 0.004 needs at least 100 and 750."),
        (("--pairs", things / "few.csv"), "there are 1 same and 1 different pairs to fit on; "),
    ):
        (things / "few.csv").write_text(
            "".join(f"0{n}/0.png,0{n}/1.png,1,{n}\n0{n}/0.png,0{n + 2}/1.png,0,{n}\n" for n in range(2))
        )
        done = run(calibrate, "--model", embedding, "--data", things / "things", *options, "--out", things / "out")
        assert done.exit_code == 1, done.output
        assert message in done.stderr
        assert not (things / "out").exists()


def test_a_list_that_is_too_short_is_refused_before_its_pictures_are_embedded(
    embedding: Path, things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinsight_core.commands.labelled.embedder", lambda _network: pytest.fail("it embeds"))
    listed = ("--pairs", things / "pairs.csv", "--false-match-rate", "0.0001")
    done = run(calibrate, "--model", embedding, "--data", things / "things", *listed, "--out", things / "out")
    assert done.exit_code == 1, done.output
    assert "a false match rate of 0.0001 needs at least 100 and 30000." in done.stderr


def test_more_pairs_are_drawn_where_a_low_rate_asks_for_them(
    embedding: Path, things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinsight_core.commands.calibrate.PAIRS_OF_A_KIND", 200)
    done = run(calibrate, "--model", embedding, "--data", things / "things", "--out", things / "out")
    assert done.exit_code == 0, done.output


def test_pictures_too_few_for_a_temperature_are_refused(
    written: Callable[[float], Path], shades: Path, tmp_path: Path
) -> None:
    data, before = tmp_path / "data", (written(1.0) / "model.json").read_bytes()
    (data / "dark").mkdir(parents=True)
    pictures = sorted(shades.glob("*/*.png"))
    for count, message in ((60, "needs at least 100 pictures; there are 60."), (100, "there are none of `light`.")):
        for number in range(count):
            shutil.copy(pictures[number], data / "dark" / f"{number}.png")
        done = run(calibrate, "--model", written(1.0), "--data", data)
        assert done.exit_code == 1, done.output
        assert message in done.stderr
    assert (written(1.0) / "model.json").read_bytes() == before


def test_a_calibration_that_is_worse_than_the_one_before_is_told_of(
    written: Callable[[float], Path], shades: Path, embedding: Path, things: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "The calibration before was better on the measured pictures: negative log-likelihood"
    arguments = ("--data", shades, "--out", things / "shades")
    assert told not in run(calibrate, "--model", written(1.0), *arguments).stderr
    monkeypatch.setattr("twinsight_core.commands.calibrate.fit_temperature", lambda *_, **_how: 0.1)
    done = run(calibrate, "--model", written(1.0), *arguments)
    assert done.exit_code == 0, done.output
    assert told in done.stderr
    arguments = ("--data", things / "things", "--out", things / "out")
    assert told not in run(calibrate, "--model", embedding, *arguments).stderr
    # Another half is measured: what was fitted on it tells it better than what was not.
    found = [run(calibrate, "--model", things / "out", *arguments, "--seed", str(seed)) for seed in (0, 1, 2)]
    assert [one.exit_code for one in found] == [0, 0, 0]
    assert told not in found[0].stderr
    assert any(told in one.stderr for one in found)


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
    assert "no calibration can be fitted: it needs pairs of both kinds." in done.stderr


def test_the_shipped_package_is_not_calibrated_in_place(tmp_path: Path) -> None:
    done = run(calibrate, "--model", "base", "--data", tmp_path)
    assert done.exit_code == 1
    assert "`base` ships with twinsight and is never changed; give --out" in done.stderr
