from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from twinsight_core.commands.train import train
from twinsight_core.packages import load_package
from twinsight_core.training.classifier import EVEN_ODDS_STATED

SMALL = ("--start", "none", "--backbone", "glyphs", "--augmentation", "none", "--size", "24", "--frozen-blocks", "0",
         "--steps", "4")  # fmt: skip


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(train, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def classes(write_drawings: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of 6 pictures."""
    path = tmp_path_factory.mktemp("data") / "classes.zip"
    write_drawings(path, groups=1, classes=8, pictures=6)
    return path


@pytest.fixture(scope="module")
def teacher(classes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's package."""
    out = tmp_path_factory.mktemp("models") / "teacher"
    done = run("cnn", "--data", classes, "--out", out, *SMALL)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def taught(classes: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The package of a classifier that had a teacher, and what the command said."""
    out = tmp_path_factory.mktemp("models") / "taught"
    done = run("cnn", "--data", classes, "--out", out, *SMALL, "--teacher", teacher)
    assert done.exit_code == 0, done.output
    return out, done


def test_a_classifier_is_taught_and_its_report_names_the_teacher(taught: tuple[Path, Result], teacher: Path) -> None:
    package = load_package(taught[0])
    assert package.card.labels == load_package(teacher).card.labels
    assert package.digest != load_package(teacher).digest
    told = "held out from this training; pictures that `teacher`, its teacher, was trained on are not excluded."
    assert told in taught[1].stderr
    assert told in (taught[0] / "report.html").read_text()


def test_a_card_states_even_odds_only_where_labels_and_teacher_are_balanced(
    classes: Path, teacher: Path, tmp_path: Path
) -> None:
    def stated(name: str, *options: str | Path) -> bool:
        done = run("cnn", "--data", classes, "--out", tmp_path / name, *SMALL, *options)
        assert done.exit_code == 0, done.output
        return EVEN_ODDS_STATED in load_package(tmp_path / name).card.training_data

    assert EVEN_ODDS_STATED in load_package(teacher).card.training_data
    assert not stated("frequent", "--balance", "none")
    frequent = ("--teacher", tmp_path / "frequent")
    assert not stated("of-frequent", *frequent)
    assert not stated("of-frequent-alone", *frequent, "--distillation-weight", "1")
    assert stated("of-even", "--teacher", teacher)
    assert not stated("of-both", "--teacher", teacher, "--balance", "none")
    assert stated("of-even-alone", "--teacher", teacher, "--balance", "none", "--distillation-weight", "1")


def test_a_taught_run_goes_on_with_the_same_teacher_and_weight_alone(
    taught: tuple[Path, Result], classes: Path, teacher: Path
) -> None:
    out, before = taught[0], load_package(taught[0]).digest
    arguments = ("cnn", "--data", classes, "--out", out, *SMALL, "--resume")
    done = run(*arguments, "--teacher", teacher)
    assert done.exit_code == 0, done.output
    assert load_package(out).digest == before
    for others, named in (
        (("--teacher", teacher, "--distillation-weight", "0.4"), "distillation weight"),
        (("--teacher", teacher, "--distillation-temperature", "3"), "distillation temperature"),
        (("--teacher", out), "teacher"),
        ((), "distillation temperature, distillation weight, teacher"),
    ):
        done = run(*arguments, *others)
        assert done.exit_code == 1
        assert f"can't be resumed: these differ: {named}. Start over" in done.stderr


def test_an_embedding_is_taught_by_one_of_another_dimension_on_classes_and_on_pairs(
    classes: Path, tmp_path: Path
) -> None:
    shared = ("siamese", "--data", classes, *SMALL)
    of_classes = ("--classes", "4", "--pictures", "3")
    done = run(*shared, *of_classes, "--dimension", "16", "--out", tmp_path / "large")
    assert done.exit_code == 0, done.output
    small = ("--dimension", "4", "--teacher", tmp_path / "large")
    done = run(*shared, *of_classes, *small, "--out", tmp_path / "small")
    assert done.exit_code == 0, done.output
    assert load_package(tmp_path / "small").card.dimension == 4
    lines = [
        f"class{first:02}/{number}.png,class{other:02}/{(number + 1) % 6}.png,{int(first == other)}"
        for first in range(8)
        for other in (first, first ^ 1)
        for number in range(6)
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    done = run(*shared, *small, "--out", tmp_path / "pairs", "--pairs", tmp_path / "pairs.csv")
    assert done.exit_code == 0, done.output
    assert "pictures that `large`, its teacher, was trained on are not excluded" in done.stderr


def test_a_teacher_that_can_not_teach_is_refused_before_anything_is_read(teacher: Path, tmp_path: Path) -> None:
    arguments = ("--data", tmp_path / "nowhere", "--out", tmp_path / "x", *SMALL)
    for kind, name, message in (
        ("cnn", "nobody", "Model `nobody` does not exist: it is neither a shipped model"),
        ("cnn", "base", "The teacher `base` must be for classification, like the trained model; it is for embedding."),
        ("siamese", str(teacher), "The teacher `teacher` must be for embedding, like the trained model; it is for"),
    ):
        done = run(kind, *arguments, "--teacher", name)
        assert done.exit_code == 1
        assert message in done.stderr


def test_a_teacher_of_other_classes_is_refused_before_the_first_step(
    write_drawings: Callable[..., None], teacher: Path, tmp_path: Path
) -> None:
    write_drawings(tmp_path / "set.zip", groups=1, classes=3, pictures=4)
    done = run("cnn", "--data", tmp_path / "set.zip", "--out", tmp_path / "x", *SMALL, "--teacher", teacher)
    assert done.exit_code == 1
    assert "must have the classes of the data; the data lacks: class03, class04, class05, class06, class07." in (
        done.stderr
    )
    assert not (tmp_path / ".x.training" / "run.json").exists()


@pytest.mark.parametrize("name", ["weight", "temperature"])
def test_what_only_a_teacher_gives_a_meaning_to_is_refused_without_one(name: str, tmp_path: Path) -> None:
    done = run("cnn", "--data", tmp_path, "--out", tmp_path / "x", f"--distillation-{name}", "0.3")
    assert done.exit_code == 2
    assert f"--distillation-{name} requires --teacher." in done.stderr
