from pathlib import Path

import pytest

from twinsight_core.errors import TrainingError
from twinsight_core.training.progress import History


def history(folder: Path, step: int) -> History:
    """The history of a run that begins, or goes on, after a step."""
    made = History(folder / "events", folder / "history.jsonl")
    made.on_start(step, 100)
    return made


def went(folder: Path) -> None:
    """A run that is killed after 60 steps; it has validated after 20, 40 and 60, and writes a line."""
    first = history(folder, 0)
    for step in range(10, 70, 10):
        first.on_steps(step, {"loss": 1 / step, "gradient_norm": 2.0})
        if step % 20 == 0:
            first.on_score(step, step / 100)
    first.close()
    with (folder / "history.jsonl").open("ab") as file:
        file.write(b'{"step": 7')


def test_a_run_that_goes_on_has_the_history_up_to_its_checkpoint(tmp_path: Path) -> None:
    went(tmp_path)
    resumed = history(tmp_path, 40)
    assert resumed.losses == [(step, 1 / step) for step in (10, 20, 30, 40)]
    assert resumed.scores == [(20, 0.2), (40, 0.4)]
    assert [step for step, _ in resumed.rates] == [10, 20, 30, 40]
    resumed.on_steps(50, {"loss": 0.5})
    resumed.close()
    again = history(tmp_path, 50)
    again.close()
    assert [step for step, _ in again.losses] == [10, 20, 30, 40, 50]
    assert again.losses[-1] == (50, 0.5)


def test_a_run_that_starts_anew_has_no_history(tmp_path: Path) -> None:
    went(tmp_path)
    anew = history(tmp_path, 0)
    anew.close()
    assert anew.losses == anew.scores == []
    assert (tmp_path / "history.jsonl").read_bytes() == b""


def test_without_a_file_the_history_is_that_of_the_process(tmp_path: Path) -> None:
    alone = History(tmp_path / "events")
    alone.on_start(20, 100)
    alone.on_steps(30, {"loss": 0.25})
    alone.close()
    assert alone.losses == [(30, 0.25)]
    assert alone.rates[0][1] > 0
    assert [one.name for one in tmp_path.iterdir()] == ["events"]


def test_a_history_that_can_t_be_written_ends_the_run_with_its_name(tmp_path: Path) -> None:
    full = history(tmp_path, 0)
    (tmp_path / "history.jsonl").unlink()
    (tmp_path / "history.jsonl").mkdir()  # stands for a full disk
    with pytest.raises(TrainingError, match=r"history\.jsonl: can't write the history \(.*\); checkpoints are k"):
        full.on_score(20, 0.5)
    full.close()
