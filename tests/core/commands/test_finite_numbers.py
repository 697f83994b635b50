"""Numbers that click's own bounds let pass."""

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
