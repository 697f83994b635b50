"""Two trainings to one folder at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from twinsight_core.errors import TrainingError
from twinsight_core.training.alone import alone

HOLDS = """
import sys, time
from pathlib import Path
from twinsight_core.training.alone import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    work = tmp_path / "models" / ".pets.training"
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(work)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with (
            pytest.raises(TrainingError, match=r"\.pets\.training is in use by another training") as refused,
            alone(work),
        ):
            raise AssertionError("it is not held")
        assert refused.value.reason == "RUN_IN_PROGRESS"
        os.kill(first.pid, signal.SIGKILL)
    with alone(work):
        (work / "run.json").touch()
    assert [one.name for one in work.iterdir()] == ["run.json"]


def test_a_folder_without_files_does_not_stay(tmp_path: Path) -> None:
    with alone(tmp_path / ".pets.training"):
        pass
    assert list(tmp_path.iterdir()) == []
