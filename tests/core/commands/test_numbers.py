"""Numbers that no training or calibration can use."""

import pytest
from click.testing import CliRunner

from twinsight_core.commands.calibrate import calibrate
from twinsight_core.commands.train import train


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("cnn", "--learning-rate"),
        ("cnn", "--distillation-weight"),
        ("cnn", "--distillation-temperature"),
        ("siamese", "--temperature"),
        ("siamese", "--margin"),
        ("siamese", "--held-out"),
        ("calibrate", "--false-match-rate"),
    ],
)
def test_a_number_must_be_finite(command: str, option: str, number: str) -> None:
    if command == "calibrate":
        done = CliRunner().invoke(calibrate, [option, number])
    else:
        done = CliRunner().invoke(train, [command, "--data", "x", "--out", "y", option, number])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.stderr


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("cnn", "--batch-size"),
        ("rcnn", "--batch-size"),
        ("siamese", "--pairs-in-batch"),
        ("siamese", "--classes"),
        ("siamese", "--pictures"),
    ],
)
def test_a_batch_that_no_memory_holds_is_rejected(command: str, option: str) -> None:
    done = CliRunner().invoke(train, [command, "--data", "x", "--out", "y", option, "1000000000"])
    assert done.exit_code == 2
    assert "1000000000 is not in the range" in done.stderr
