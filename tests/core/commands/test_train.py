import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image as Pillow
from PIL import ImageDraw

from twinsight_core.commands.calibrate import CALIBRATED, calibrate
from twinsight_core.commands.evaluate import evaluate
from twinsight_core.commands.train import train
from twinsight_core.packages import load_package, load_packages

SMALL = ("--start", "none", "--backbone", "glyphs", "--augmentation", "glyphs", "--size", "24", "--frozen-blocks", "0")


def run(command: object, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments])  # type: ignore[arg-type]  # a click command


@pytest.fixture(scope="module")
def groups(write_drawings: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "groups.zip"
    write_drawings(path, groups=5, classes=6, pictures=8)
    return path


@pytest.fixture(scope="module")
def classes(write_drawings: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "classes.zip"
    write_drawings(path, groups=1, classes=3, pictures=34)
    return path


@pytest.fixture(scope="module")
def embedding(groups: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained embedding's package."""
    out = tmp_path_factory.mktemp("models") / "shapes"
    done = run(train, "siamese", "--data", groups, "--out", out, *SMALL, "--steps", "60", "--groups", "2",
               "--classes", "8", "--dimension", "16", "--flatten", "--learning-rate", "3e-3")  # fmt: skip
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def labelling(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier's package."""
    out = tmp_path_factory.mktemp("models") / "kinds"
    done = run(train, "cnn", "--data", classes, "--out", out, *SMALL, "--steps", "60", "--batch-size", "24",
               "--learning-rate", "3e-3")  # fmt: skip
    assert done.exit_code == 0, done.output
    return out


def test_an_embedding_is_trained_scored_calibrated_and_told_of_in_a_report(embedding: Path) -> None:
    package = load_package(embedding)
    assert (package.name, package.card.task, package.card.dimension) == ("shapes", "embedding", 16)
    assert package.card.calibration is not None
    # Chance is 0.5; the classes were never seen.
    assert package.card.scores["verification_auc"] > 0.7
    report = (embedding / "report.html").read_text()
    assert "Worst mistakes" in report
    assert report.count("data:image/png") == 2
    assert load_packages(embedding.parent) == [package]  # what the run leaves beside it is no package


def test_a_classifier_is_trained_and_names_the_held_out_pictures(labelling: Path) -> None:
    package = load_package(labelling)
    assert package.card.labels == ("class00", "class01", "class02")
    assert package.card.scores["top1_accuracy"] > 0.7
    assert "Confusion" in (labelling / "report.html").read_text()


def test_a_finished_run_that_is_resumed_ends_with_the_same_weights(embedding: Path, groups: Path) -> None:
    before = load_package(embedding)
    done = run(train, "siamese", "--data", groups, "--out", embedding, *SMALL, "--steps", "60", "--groups", "2",
               "--classes", "8", "--dimension", "16", "--flatten", "--learning-rate", "3e-3", "--resume")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert load_package(embedding).digest == before.digest


def test_weights_that_blow_up_end_in_a_message_and_no_checkpoint(classes: Path, tmp_path: Path) -> None:
    done = run(train, "cnn", "--data", classes, "--out", tmp_path / "kinds", *SMALL, "--steps", "2", "--batch-size",
               "8", "--learning-rate", "1e30")  # fmt: skip
    assert done.exit_code == 1
    assert " at step 2; there is no checkpoint yet. A lower learning rate may help." in done.stderr
    assert not list((tmp_path / ".kinds.training" / "checkpoints").glob("[0-9]*"))
    assert not (tmp_path / "kinds").exists()


def test_training_ends_once_validation_gets_no_better_and_the_report_says_so(
    labelling: Path, classes: Path, tmp_path: Path
) -> None:
    # With a start its statistics stay, with this rate its weights, too: no validation is better than the first.
    out = tmp_path / "kinds"
    done = run(train, "cnn", "--data", classes, "--out", out, *SMALL, "--steps", "100", "--batch-size", "8",
               "--learning-rate", "1e-30", "--patience", "1", "--start", labelling)  # fmt: skip
    assert done.exit_code == 0, done.output
    told = (
        "Training stopped early, after 40 of 100 steps: for 20 steps no validation was better than at step 20, whose "
        "weights were kept."
    )
    assert told in done.stderr
    assert told in (out / "report.html").read_text()


KILLED = """
import sys
from twinsight_core.commands.train import train
train(args=sys.argv[1:])
"""


def test_a_run_that_is_killed_goes_on_to_the_same_weights(labelling: Path, classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "kinds"
    arguments = ["cnn", "--data", str(classes), "--out", str(out), *SMALL, "--steps", "60", "--batch-size", "24",
                 "--learning-rate", "3e-3"]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "validation" in line:  # the first checkpoint is being written, or has been
                break
        for line in process.stderr:
            if "step 30/60" in line:
                process.kill()
                break
    assert not out.exists()
    done = run(train, *arguments, "--resume")
    assert done.exit_code == 0, done.output
    assert load_package(out).digest == load_package(labelling).digest
    of_both = [(one.parent / f".{one.name}.training" / "history.jsonl").read_text() for one in (out, labelling)]
    steps = [[json.loads(line)["step"] for line in kept.splitlines()] for kept in of_both]
    assert steps[0] == steps[1] == [10, 20, 20, 30, 40, 40, 50, 60, 60]


def test_evaluation_over_folders_and_pairs_says_its_protocol(embedding: Path, groups: Path, tmp_path: Path) -> None:
    done = run(evaluate, "--model", embedding, "--data", groups, "--groups", "--json", "--report", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert "239 pictures of 30 classes in 5 groups" in told["protocol"]
    assert "1 exact copies of other pictures of their class are left out." in told["protocol"]
    assert {"recall_at_1", "map_at_r", "verification_equal_error_rate"} <= told["scores"].keys()
    assert (tmp_path / "r.html").exists()
    lines = [
        f"group0/class00/{n}.png,group0/class0{1 - n % 2}/{(n + 1) % 8}.png,{n % 2},{n // 2 % 2}" for n in range(8)
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    done = run(evaluate, "--model", embedding, "--data", groups, "--pairs", tmp_path / "pairs.csv", "--report",
               tmp_path / "p.html")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert (tmp_path / "p.html").read_text().count("the same, cosine") == 4
    assert "4 same and 4 different pairs, as listed. Accuracy over 2 folds" in done.stdout


def test_calibration_writes_operating_points_and_changes_the_digest(
    embedding: Path, groups: Path, tmp_path: Path
) -> None:
    out = tmp_path / "calibrated"
    done = run(calibrate, "--model", embedding, "--data", groups, "--groups", "--out", out, "--meaning", "One shape.")
    assert done.exit_code == 0, done.output
    package, before = load_package(out), load_package(embedding)
    assert package.digest != before.digest
    assert package.card.calibration is not None
    assert package.card.calibration.meaning == "One shape."
    assert package.card.calibration.operating_points
    assert (out / "report.html").read_text() == f"{(embedding / 'report.html').read_text()}\n{CALIBRATED}"
    assert "target FMR" in done.stdout


def test_a_classifiers_calibration_sets_its_temperature(labelling: Path, classes: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibrated"
    done = run(calibrate, "--model", labelling, "--data", classes, "--out", out)
    assert done.exit_code == 0, done.output
    report = (labelling / "report.html").read_text()
    assert (out / "report.html").read_text() == f"{report}\n{CALIBRATED}"
    again = run(calibrate, "--model", out, "--data", classes)  # in place
    assert again.exit_code == 0, again.output
    assert (out / "report.html").read_text() == f"{report}\n{CALIBRATED}"
    before, after = (load_package(one).build() for one in (labelling, out))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 24, 24, 3), np.uint8))
    np.testing.assert_array_equal(np.argmax(before(images), axis=1), np.argmax(after(images), axis=1))
    assert "temperature" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cnn", "--data", "nowhere", "--out", "x", *SMALL), "nowhere: no such folder or zip."),
        (("siamese", "--data", "{classes}", "--out", "x", *SMALL), "There are 3 classes; 6 are required"),
        (("cnn", "--data", "{classes}", "--out", "x", "--start", "vgg"), "Model `vgg` does not exist: it is neither"),
        (
            ("cnn", "--data", "{classes}", "--out", "x", *SMALL[2:], "--start", "base"),
            "The model `base` does not have the backbone to train",
        ),
    ],
)
def test_what_can_not_be_trained_says_why(
    arguments: tuple[str, ...], message: str, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(train, *(one.format(classes=classes) for one in arguments))
    assert done.exit_code == 1
    assert message in done.stderr


def test_a_folder_that_holds_other_things_is_never_written_over(classes: Path, tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "cat.jpg").write_bytes(b"dear to me")
    done = run(train, "cnn", "--data", classes, "--out", tmp_path / "pets", *SMALL)
    assert done.exit_code == 1
    assert "can't write a model package here, because `cat.jpg` would be lost" in done.stderr
    assert (tmp_path / "pets" / "cat.jpg").read_bytes() == b"dear to me"
    assert not (tmp_path / ".pets.training").exists()


def test_a_run_with_other_options_or_pictures_is_not_gone_on_with(
    labelling: Path, classes: Path, groups: Path, tmp_path: Path
) -> None:
    arguments = ["cnn", "--out", str(labelling), *SMALL, "--batch-size", "24", "--resume"]
    done = run(train, *arguments, "--data", classes, "--steps", "61", "--learning-rate", "3e-3")
    assert done.exit_code == 1
    assert "can't be resumed: these differ: steps. Start over, with --anew instead of --resume" in done.stderr
    done = run(train, *arguments, "--data", groups, "--steps", "60", "--learning-rate", "3e-3")
    assert "these differ: classes, network, pictures. " in done.stderr
    with zipfile.ZipFile(classes) as before, zipfile.ZipFile(tmp_path / "classes.zip", "w") as edited:
        for name in before.namelist():
            edited.writestr(name, before.read("class00/1.png" if name == "class00/0.png" else name))
    done = run(train, *arguments, "--data", tmp_path / "classes.zip", "--steps", "60", "--learning-rate", "3e-3")
    assert "these differ: pictures. " in done.stderr


def test_a_mistaken_command_leaves_a_run_that_can_be_gone_on_with(labelling: Path, classes: Path) -> None:
    before = load_package(labelling).digest
    arguments = ["cnn", "--data", str(classes), "--out", str(labelling), *SMALL, "--steps", "60", "--batch-size", "24",
                 "--learning-rate", "3e-3"]  # fmt: skip
    mistaken = run(train, *arguments, "--start", "base")
    assert mistaken.exit_code == 1
    assert "The model `base` does not have the backbone to train" in mistaken.stderr
    done = run(train, *arguments, "--resume")
    assert done.exit_code == 0, done.output
    assert load_package(labelling).digest == before


def test_blocks_drawn_at_random_are_not_frozen(classes: Path, tmp_path: Path) -> None:
    done = run(train, "cnn", "--data", classes, "--out", tmp_path / "x", *SMALL[:-1], "2")
    assert done.exit_code == 2
    assert "--frozen-blocks must be 0 with --start none" in done.stderr
    done = run(train, "cnn", "--data", classes, "--out", tmp_path / "x", "--size", "20")
    assert "20 is not a multiple of 8" in done.stderr


def test_labels_that_the_model_does_not_have_are_named(labelling: Path, groups: Path) -> None:
    done = run(evaluate, "--model", labelling, "--data", groups)
    assert done.exit_code == 1
    assert "`kinds` has no labels for these classes: group0/class00" in done.stderr


@pytest.fixture(scope="module")
def listed(write_drawings: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `set.zip`, twelve classes, one picture of which is none, and `pairs.csv` of it in four folds."""
    path = tmp_path_factory.mktemp("data")
    write_drawings(path / "good.zip", groups=1, classes=12, pictures=6)
    with zipfile.ZipFile(path / "good.zip") as good, zipfile.ZipFile(path / "set.zip", "w") as archive:
        for name in good.namelist():
            archive.writestr(name, b"no picture" if name == "class00/5.png" else good.read(name))
    lines = ["left,right,same,fold"]
    for label in range(12):
        fold, other = label // 3, label // 3 * 3 + (label + 1) % 3
        for number in range(5):
            lines.append(f"class{label:02}/{number}.png,class{label:02}/{(number + 1) % 5}.png,1,{fold}")
            lines.append(f"class{label:02}/{number}.png,class{other:02}/{number}.png,0,{fold}")
    (path / "pairs.csv").write_text("\n".join(lines))
    return path


ON_PAIRS = (*SMALL, "--steps", "40", "--pairs-in-batch", "16", "--dimension", "16", "--flatten", "--margin", "1",
            "--learning-rate", "3e-3")  # fmt: skip


@pytest.fixture(scope="module")
def paired(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The package of an embedding trained on pairs, and what the command said."""
    out = tmp_path_factory.mktemp("models") / "alike"
    done = run(train, "siamese", "--data", listed / "set.zip", "--out", out, "--pairs", listed / "pairs.csv", *ON_PAIRS)
    assert done.exit_code == 0, done.output
    return out, done


def test_an_embedding_is_trained_on_a_list_of_pairs_and_calibrated(paired: tuple[Path, Result]) -> None:
    package = load_package(paired[0])
    assert (package.card.task, package.card.dimension) == ("embedding", 16)
    assert package.card.calibration is not None
    assert "a same pair as the training list defines it" in package.card.calibration.meaning
    assert (package.card.calibration.pairs_fitted, package.card.calibration.pairs_measured) == (30, 30)
    assert "targets a false match rate of 1%; on the held-out pairs the 95 % interval is " in paired[1].stderr
    assert package.card.scores["verification_auc"] > 0.6
    assert package.build()(jnp.zeros((1, 24, 24, 3), jnp.uint8)).shape == (1, 16)


def test_the_protocol_says_which_pairs_were_held_out(paired: tuple[Path, Result]) -> None:
    told = (
        "15 same and 15 different pairs, as listed. No accuracy over folds: there is only one. verification_accuracy "
        "is at the best threshold on these pairs. Intervals are at 95 % and assume independent pairs. The pairs are "
        "those of fold 3 of pairs.csv, held out from this training. Those of fold 2 chose the weights and fitted the "
        "calibration."
    )
    assert told in paired[1].stderr
    report = (paired[0] / "report.html").read_text()
    assert told in report
    assert report.count("different, cosine") == report.count("the same, cosine") == 6
    assert report.count("data:image/jpeg") == 24


def test_a_run_on_pairs_goes_on_with_the_same_list_alone(
    paired: tuple[Path, Result], listed: Path, tmp_path: Path
) -> None:
    out, _ = paired
    before = load_package(out).digest
    arguments = ("siamese", "--data", listed / "set.zip", "--out", out, *ON_PAIRS, "--resume")
    done = run(train, *arguments, "--pairs", listed / "pairs.csv")
    assert done.exit_code == 0, done.output
    assert load_package(out).digest == before
    lines = (listed / "pairs.csv").read_text().splitlines()
    (tmp_path / "pairs.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    done = run(train, *arguments, "--pairs", tmp_path / "pairs.csv")
    assert done.exit_code == 1
    assert "can't be resumed: these differ: held-out pairs, pairs. Start over, with --anew" in done.stderr


def test_pairs_without_folds_are_held_out_by_what_they_share(listed: Path, tmp_path: Path) -> None:
    lines = [line.rpartition(",")[0] for line in (listed / "pairs.csv").read_text().splitlines()]
    lines.append("class00/5.png,class01/5.png,0")  # the first can't be read
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    arguments = ("siamese", "--data", listed / "set.zip", "--pairs", tmp_path / "pairs.csv", *ON_PAIRS, "--steps", "2")
    done = run(train, *arguments, "--out", tmp_path / "alike")
    assert done.exit_code == 1
    assert "1 pictures can't be read; --skip-bad leaves them out:\n  class00/5.png: " in done.stderr
    assert not (tmp_path / ".alike.training").exists()
    done = run(train, *arguments, "--out", tmp_path / "alike", "--skip-bad")
    assert done.exit_code == 0, done.output
    assert "15 same and 15 different pairs, as listed." in done.stderr
    told = (
        "those of pairs.csv that share no picture and no identity folder with the others, held out from this "
        "training. Another 30 such pairs chose the weights and fitted the calibration. 1 pictures of the set"
    )
    assert told in done.stderr


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("class00/0.png,no/1.png,1\nclass00/0.png,no/2.png,0", "line 1: there is no picture `no/1.png`; line 2: there"),
        ("class00/0.png,class00/1.png,1", "the list must have pairs of both kinds; all 1 are same, none are dif"),
        (
            "class00/0.png,class00/1.png,1,0\nclass00/0.png,class01/1.png,0,1",
            "must name at least 3 folds, one for each",
        ),
        (
            "class00/0.png,class00/1.png,1\nclass00/0.png,class01/1.png,0",
            "there would be 1 same and 1 different in training, 0 same and 0 different in validation, 0 same and 0 "
            "different in the scores; hold out more (`held-out`), leave out pairs that link too many pictures, or give",
        ),
    ],
)
def test_a_list_that_can_not_be_trained_on_says_why(lines: str, message: str, listed: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(lines)
    done = run(train, "siamese", "--data", listed / "set.zip", "--pairs", tmp_path / "pairs.csv", "--out",
               tmp_path / "x", *SMALL)  # fmt: skip
    assert done.exit_code == 1
    assert message in done.stderr
    assert not (tmp_path / ".x.training").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pairs", "x", "--loss", "triplet"), "--loss (=triplet) must be contrastive with --pairs: the others need"),
        (("--pairs", "x", "--groups", "2"), "--groups must not be given with --pairs: a list of pairs has no classes."),
        (("--pairs", "x", "--turns"), "--turns must not be given with --pairs: "),
        (("--pairs", "x", "--classes", "16"), "--classes must not be given with --pairs: "),
        (("--pairs-in-batch", "8"), "--pairs-in-batch requires --pairs: class folders have no pairs."),
        (("--loss", "arcface", "--margin", "30"), "--margin (=30) must be at most 1.571 for this loss: unit vectors"),
        (("--pairs", "x", "--margin", "2.5"), "--margin (=2.5) must be at most 2 for this loss: unit vectors"),
    ],
)
def test_an_option_without_effect_is_refused(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run(train, "siamese", "--data", tmp_path, "--out", tmp_path / "x", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rectangles in two colours, in the layout of Pascal VOC."""
    path, rng = tmp_path_factory.mktemp("data") / "boxes.zip", np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        names = [f"p{number:02}" for number in range(24)]
        for name in names:
            picture, marks = Pillow.new("RGB", (64, 64), "white"), []
            for corner, colour in (((4, 4), "red"), ((34, 30), "blue")):
                left, top = (int(one) for one in corner + rng.integers(0, 6, 2))
                right, bottom = left + int(rng.integers(12, 22)), top + int(rng.integers(12, 22))
                ImageDraw.Draw(picture).rectangle((left, top, right, bottom), fill=colour)
                marks.append(
                    f"<object><name>{colour}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
                    f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
                )
            out = io.BytesIO()
            picture.save(out, "JPEG", quality=95)
            archive.writestr(f"JPEGImages/{name}.jpg", out.getvalue())
            size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
            xml = f"<annotation><filename>{name}.jpg</filename>{size}{''.join(marks)}</annotation>"
            archive.writestr(f"Annotations/{name}.xml", xml)
        archive.writestr("ImageSets/Main/train.txt", "\n".join(names[:20]))
        archive.writestr("ImageSets/Main/val.txt", "\n".join(names[20:]))
    return path


def test_a_detector_is_trained_measured_and_evaluated_again(boxes: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "rectangles"
    done = run(train, "rcnn", "--data", boxes, "--out", out, "--start", "none", "--backbone", "glyphs", "--size", "64",
               "--width", "0", "--frozen-blocks", "0", "--steps", "6", "--batch-size", "4")  # fmt: skip
    assert done.exit_code == 0, done.output
    package = load_package(out)
    assert (package.card.task, package.card.labels) == ("detection", ("blue", "red"))
    assert {"ap", "ap_50", "ap_50_red"} <= package.card.scores.keys()
    assert "things (green)" in (out / "report.html").read_text()
    again = run(evaluate, "--model", out, "--data", boxes, "--image-set", "val", "--json")
    assert again.exit_code == 0, again.output
    measured = json.loads(again.stdout)["scores"]
    assert {name: round(value, 4) for name, value in measured.items()} == package.card.scores
    assert run(calibrate, "--model", out, "--data", boxes).exit_code == 1


def test_a_batch_of_more_pictures_than_there_are_begins_no_run(boxes: Path, tmp_path: Path) -> None:
    done = run(train, "rcnn", "--data", boxes, "--out", tmp_path / "x", "--start", "none", "--backbone", "glyphs",
               "--size", "64", "--frozen-blocks", "0", "--batch-size", "40")  # fmt: skip
    assert done.exit_code == 1
    assert "pictures to train on; a batch needs 40." in done.stderr
    assert not (tmp_path / ".x.training").exists()
