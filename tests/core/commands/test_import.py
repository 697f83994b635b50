from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from twinsight_core.commands.import_ import _number_repeats, import_
from twinsight_core.packages import load_package


def residual_network(path: Path) -> None:
    """Writes the smallest residual network with torchvision's names: one block, two classes."""
    tensors: dict[str, np.ndarray] = {"conv1.weight": np.ones((2, 3, 3, 3), np.float32)}
    for number in (1, 2):
        tensors[f"layer1.0.conv{number}.weight"] = np.ones((2, 2, 3, 3), np.float32)
    for norm in ("bn1", "layer1.0.bn1", "layer1.0.bn2"):
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{part}"] = np.ones(2, np.float32)
    save_file(tensors | {"fc.weight": np.eye(2, dtype=np.float32), "fc.bias": np.zeros(2, np.float32)}, path)


def arguments(folder: Path) -> list[str]:
    return ["--architecture", "resnet", "--weights", str(folder / "w.safetensors"), "--out", str(folder / "tiny")]


def test_a_package_is_written_with_the_labels_of_the_file_and_what_is_said_of_it(tmp_path: Path) -> None:
    residual_network(tmp_path / "w.safetensors")
    # Editors of some systems begin a file with a byte order mark.
    (tmp_path / "labels.txt").write_text("\ufeffcat\ndog\n", encoding="utf-8")
    options = [
        "--labels",
        str(tmp_path / "labels.txt"),
        "--licence",
        "MIT",
        "--training-data",
        "Pets.",
        "--input-px",
        "32",
    ]
    done = CliRunner().invoke(import_, arguments(tmp_path) + options)
    assert done.exit_code == 0, done.output
    package = load_package(tmp_path / "tiny")
    assert done.stdout == f"{tmp_path / 'tiny'}: classifier, classification, 2 classes\n{package.digest}\n"
    assert package.card.labels == ("cat", "dog")
    assert (package.card.licence, package.card.training_data) == ("MIT", "Pets.")


def test_a_package_is_named_for_the_folder_that_it_is_written_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    residual_network(tmp_path / "w.safetensors")
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path / "tiny")
    done = CliRunner().invoke(import_, [*arguments(tmp_path)[:-1], "."])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{tmp_path / 'tiny'}: classifier, classification, 2 classes\n")


def test_weights_that_do_not_fit_are_one_line_and_status_one(tmp_path: Path) -> None:
    save_file({"conv1.weight": np.ones((2, 3, 5, 5), np.float32)}, tmp_path / "w.safetensors")
    done = CliRunner().invoke(import_, arguments(tmp_path))
    assert done.exit_code == 1
    assert done.stderr.startswith(f"twinsight: {tmp_path / 'w.safetensors'}: the tensor `conv1.weight` has a window of")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (b"\xff", "not UTF-8 text")])
def test_labels_that_can_not_be_read_are_one_line_and_status_one(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    residual_network(tmp_path / "w.safetensors")
    if content is not None:
        (tmp_path / "labels.txt").write_bytes(content)
    done = CliRunner().invoke(import_, [*arguments(tmp_path), "--labels", str(tmp_path / "labels.txt")])
    assert done.exit_code == 1
    assert f"{tmp_path / 'labels.txt'}: {message}" in done.stderr


def test_an_unknown_architecture_is_a_wrong_command_line() -> None:
    done = CliRunner().invoke(import_, ["--architecture", "vgg", "--weights", "w", "--out", "o"])
    assert done.exit_code == 2
    assert "'mobilefacenet', 'mobilenet_v1', 'resnet'" in done.stderr


@pytest.mark.parametrize(
    ("content", "labels", "told"),
    [
        ("crane\ncrane\n", ("crane", "crane (1)"), "`crane` names several classes; number 1 becomes `crane (1)`"),
        ("0, tench\n1, goldfish, Carassius auratus\n", ("tench", "goldfish, Carassius auratus"), "`number, name`"),
        ("2: dog\n1: cat\n", ("cat", "dog"), "`number, name`"),
        ("1, 2 or 3\nmore\n", ("1, 2 or 3", "more"), ""),
    ],
)
def test_labels_that_are_numbered_or_there_twice_are_told_apart(
    tmp_path: Path, content: str, labels: tuple[str, ...], told: str
) -> None:
    residual_network(tmp_path / "w.safetensors")
    (tmp_path / "labels.txt").write_text(content)
    done = CliRunner().invoke(import_, [*arguments(tmp_path), "--labels", str(tmp_path / "labels.txt")])
    assert done.exit_code == 0, done.output
    assert load_package(tmp_path / "tiny").card.labels == labels
    assert told in done.stderr
    assert bool(done.stderr) == bool(told)


def test_lines_whose_numbers_are_not_those_of_the_classes_are_refused(tmp_path: Path) -> None:
    residual_network(tmp_path / "w.safetensors")
    for content in ("0, cat\n2, dog\n", "5: cat\n6: dog\n", "0, cat\n0, dog\n"):
        (tmp_path / "labels.txt").write_text(content)
        done = CliRunner().invoke(import_, [*arguments(tmp_path), "--labels", str(tmp_path / "labels.txt")])
        assert done.exit_code == 1
        assert "numbered lines must have every number from 0 or 1 on exactly once." in done.stderr


def test_a_number_that_is_appended_makes_no_name_that_is_there() -> None:
    labels = _number_repeats(["x (2)", "x", "x", "x", "y"])
    assert labels == ["x (2)", "x", "x (2) (2)", "x (3)", "y"]
