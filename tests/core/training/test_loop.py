import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from twinsight_core.errors import TrainingError
from twinsight_core.training.evaluate import in_batches
from twinsight_core.training.loop import LoopConfig, Trained, train
from twinsight_core.training.progress import BarProgress, History, LogProgress
from twinsight_core.training.trainable import Arrays

CONFIG = LoopConfig(steps=12, learning_rate=0.05, warmup_steps=2, checkpoint_every=4, report_every=5)
START: Arrays = {"slope": jnp.zeros((2, 1)), "offset": jnp.zeros(1)}
STATS: Arrays = {"seen": jnp.zeros(())}


def batch(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=(16, 2)).astype(np.float32)


def loss(params: Arrays, stats: Arrays, batch: np.ndarray, key: jax.Array) -> tuple[jax.Array, tuple[Arrays, Arrays]]:
    """Distance to 3 x0 - 2 x1 + 1, under noise that depends on the key; the statistic counts batches."""
    wanted = jnp.asarray(batch) @ jnp.array([[3.0], [-2.0]]) + 1.0
    noise = 0.01 * jax.random.normal(key, wanted.shape)
    value = jnp.mean(jnp.square(batch @ params["slope"] + params["offset"] - wanted + noise))
    return value, ({"seen": stats["seen"] + 1.0}, {"halved": value / 2})


class Interrupted(Exception):
    """Stands for a power cut."""


def test_training_lowers_the_loss_and_logs_rate_and_time_to_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = LoopConfig(steps=200, learning_rate=0.1, warmup_steps=5, average=0.9, checkpoint_every=100)
    with caplog.at_level("INFO", "twinsight_core"):
        trained = train(
            START, STATS, loss=loss, batch=batch, config=config, checkpoints=tmp_path, watchers=(LogProgress(),)
        )
    np.testing.assert_allclose(trained.params["slope"], [[3.0], [-2.0]], atol=0.1)
    np.testing.assert_allclose(trained.params["offset"], [1.0], atol=0.1)
    assert (trained.step, trained.score, float(trained.stats["seen"])) == (200, None, 200.0)
    assert caplog.messages[-1].startswith("step 200/200  loss 0.0")
    assert "  halved 0.0" in caplog.messages[-1]
    assert caplog.messages[-1].endswith(" steps/s  0 s to go")


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_few_steps_learns(tmp_path: Path, steps: int) -> None:
    config = LoopConfig(steps=steps, learning_rate=0.1, warmup_steps=5)
    trained = train(START, STATS, loss=loss, batch=batch, config=config, checkpoints=tmp_path)
    assert trained.step == steps
    assert np.abs(trained.params["slope"]).max() > 0


class Scores:
    """Gives the scores of a list, one after the other."""

    def __init__(self, *values: float) -> None:
        self._values = list(values)
        self.told: list[float] = []
        self.early_end: tuple[int, int] | None = None

    def __call__(self, params: Arrays, stats: Arrays) -> float:
        del params, stats
        return self._values.pop(0)

    def on_start(self, step: int, steps: int) -> None: ...

    def on_steps(self, step: int, losses: dict[str, float]) -> None: ...

    def on_score(self, step: int, score: float) -> None:
        del step
        self.told.append(score)

    def on_early_end(self, step: int, best_step: int) -> None:
        self.early_end = (step, best_step)


def gone_on(checkpoints: Path, config: LoopConfig, scores: Scores) -> Trained:
    """Goes on with a run, scored and watched by the same."""
    return train(
        START,
        STATS,
        loss=loss,
        batch=batch,
        config=config,
        checkpoints=checkpoints,
        resume=True,
        score=scores,
        watchers=(scores,),
    )


def test_a_resumed_run_ends_with_the_same_weights_and_losses(tmp_path: Path) -> None:
    def run(
        folder: Path, batch_of: Callable[[int], np.ndarray], scores: Scores, *, resume: bool = False
    ) -> tuple[Trained, list[tuple[int, float]]]:
        with closing(History(tmp_path / "events")) as history:
            trained = train(
                START,
                STATS,
                loss=loss,
                batch=batch_of,
                config=replace(CONFIG, report_every=1),
                checkpoints=folder,
                resume=resume,
                score=scores,
                watchers=(history,),
            )
        return trained, history.losses

    whole, losses = run(tmp_path / "whole", batch, Scores(0.1, 0.3, 0.2))

    def interrupt(step: int) -> np.ndarray:
        if step == 7:
            raise Interrupted
        return batch(step)

    with pytest.raises(Interrupted):
        run(tmp_path / "run", interrupt, Scores(0.1))
    asked = []

    def remember(step: int) -> np.ndarray:
        asked.append(step)
        return batch(step)

    resumed, rest = run(tmp_path / "run", remember, Scores(0.3, 0.2), resume=True)
    assert sorted(asked) == list(range(4, 12))
    assert rest == losses[4:]
    assert (resumed.step, resumed.score) == (whole.step, whole.score)
    for name, value in whole.params.items():
        np.testing.assert_array_equal(resumed.params[name], value)


def test_without_resume_a_run_starts_at_the_first_step(tmp_path: Path) -> None:
    first = train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path)
    again = train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path)
    np.testing.assert_array_equal(again.params["slope"], first.params["slope"])


def test_the_best_average_is_kept_and_training_ends_when_it_gets_no_better(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40, patience=2)
    scores = Scores(0.5, 0.9, 0.7, 0.8)
    trained = train(
        START, STATS, loss=loss, batch=batch, config=config, checkpoints=tmp_path, score=scores, watchers=(scores,)
    )
    assert scores.told == [0.5, 0.9, 0.7, 0.8]
    assert scores.early_end == (16, 8)
    assert trained.step == 16
    assert trained.score == pytest.approx(0.9)
    assert float(trained.stats["seen"]) == 8
    ended = Scores()
    shorter = gone_on(tmp_path, config, ended)
    np.testing.assert_array_equal(shorter.params["slope"], trained.params["slope"])
    assert ended.early_end == (16, 8)


def test_a_score_that_is_equal_is_no_better_one(tmp_path: Path) -> None:
    # 0.9 is larger than what float32 makes of it.
    config = replace(CONFIG, steps=40, patience=2)
    scores = Scores(0.9, 0.9, 0.9)
    trained = train(START, STATS, loss=loss, batch=batch, config=config, checkpoints=tmp_path, score=scores)
    assert trained.step == 12
    assert float(trained.stats["seen"]) == 4


def test_a_resumed_run_still_counts_the_scores_before(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=40, patience=2)

    def interrupt(step: int) -> np.ndarray:
        if step == 10:
            raise Interrupted
        return batch(step)

    with pytest.raises(Interrupted):
        train(START, STATS, loss=loss, batch=interrupt, config=config, checkpoints=tmp_path, score=Scores(0.9, 0.5))
    scores = Scores(0.6)
    trained = gone_on(tmp_path, config, scores)
    assert (trained.step, scores.early_end) == (12, (12, 4))
    assert float(trained.stats["seen"]) == 4


def test_that_training_ended_early_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(CONFIG, steps=40, patience=1)
    history, bar = History(tmp_path / "events"), BarProgress()
    with caplog.at_level("INFO", "twinsight_core"):
        train(
            START,
            STATS,
            loss=loss,
            batch=batch,
            config=config,
            checkpoints=tmp_path,
            score=Scores(0.9, 0.5),
            watchers=(LogProgress(), bar, history),
        )
    bar.close()
    history.close()
    told = "step 8: no better validation for 4 steps; stopping early and keeping the weights of step 4"
    assert caplog.messages[-1] == told
    assert told.split("; ", maxsplit=1)[0] in " ".join(capsys.readouterr().err.split())
    assert history.early_end == (8, 4)


def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path)
    other = {"slope": jnp.zeros((3, 1)), "offset": jnp.zeros(1)}
    with pytest.raises(TrainingError, match=r"the checkpoints \(step 8 and 12\) are of other weights or can't be"):
        train(other, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path, resume=True)


def test_where_the_newest_checkpoint_is_damaged_the_one_before_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path)
    for file in (tmp_path / str(CONFIG.steps)).rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    seen: list[int] = []

    def watched(step: int) -> np.ndarray:
        seen.append(step)
        return batch(step)

    with caplog.at_level("WARNING", "twinsight_core"):
        resumed = train(START, STATS, loss=loss, batch=watched, config=CONFIG, checkpoints=tmp_path, resume=True)
    told = [one.getMessage() for one in caplog.records if one.name.startswith("twinsight")]
    assert [one.split(" (")[0] for one in told] == [
        f"can't read the checkpoint of step {CONFIG.steps}; using that of step {CONFIG.steps - 4}"
    ]
    assert seen == list(range(CONFIG.steps - 4, CONFIG.steps))
    np.testing.assert_array_equal(resumed.params["slope"], whole.params["slope"])
    assert train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path, resume=True).step == 12


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    def breaking(
        params: Arrays, stats: Arrays, batch: np.ndarray, key: jax.Array
    ) -> tuple[jax.Array, tuple[Arrays, Arrays]]:
        value, aside = loss(params, stats, batch, key)
        return jnp.where(stats["seen"] == 6, jnp.nan, value), aside

    with pytest.raises(TrainingError, match=r"^The loss is nan at step 7; the last good checkpoint, of step 4, is k"):
        train(START, STATS, loss=breaking, batch=batch, config=CONFIG, checkpoints=tmp_path)
    resumed = train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path, resume=True)
    whole = train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path / "whole")
    np.testing.assert_array_equal(resumed.params["slope"], whole.params["slope"])


@pytest.mark.parametrize("broken", ["weights", "statistics"])
def test_weights_that_are_not_finite_are_neither_scored_nor_kept(tmp_path: Path, broken: str) -> None:
    def breaking(
        params: Arrays, stats: Arrays, batch: np.ndarray, key: jax.Array
    ) -> tuple[jax.Array, tuple[Arrays, Arrays]]:
        value, (counted, parts) = loss(params, stats, batch, key)
        spoilt = jnp.where(stats["seen"] == 7, jnp.inf, counted["seen"])
        return value, ({"seen": spoilt} if broken == "statistics" else counted, parts)

    # The loss of the last step is of the weights before it.
    config = replace(CONFIG, steps=2, warmup_steps=1, learning_rate=1e30) if broken == "weights" else CONFIG
    scores = Scores(0.5)
    last = config.steps if broken == "weights" else 8
    kept = "there is no checkpoint yet" if broken == "weights" else "the last good checkpoint, of step 4, is kept"
    with pytest.raises(
        TrainingError,
        match=rf"^The norm of weights and statistics is inf at step {last}; {kept}\.",
    ) as told:
        train(
            START,
            STATS,
            loss=breaking,
            batch=batch,
            config=config,
            checkpoints=tmp_path,
            score=scores,
            watchers=(scores,),
        )
    assert told.value.reason == "LOSS_NOT_FINITE"
    assert scores.told == ([] if broken == "weights" else [0.5])
    assert not (tmp_path / str(last)).exists()


def test_answers_that_are_not_finite_end_the_run_at_their_step(tmp_path: Path) -> None:
    def score(params: Arrays, stats: Arrays) -> float:
        del params
        answers = np.array([[0.0 if stats["seen"] < 8 else np.inf]], np.float32)
        return float(in_batches(lambda _: answers, np.zeros((1, 1, 1, 3), np.uint8), batch=1).mean())

    with pytest.raises(
        TrainingError, match=r"^The network's outputs for validation data are no longer finite at step 8"
    ):
        train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path, score=score)
    assert (tmp_path / "4").exists()
    assert not (tmp_path / "8").exists()


def test_a_disk_that_takes_no_checkpoint_is_told_of_and_the_one_before_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = ocp.CheckpointManager.save

    def full(manager: ocp.CheckpointManager, step: int, *, args: ocp.args.CheckpointArgs, force: bool) -> bool:
        if step > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return bool(save(manager, step, args=args, force=force))

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", full)
        with pytest.raises(TrainingError, match=r"can't write the checkpoint of step 8 .* of step 4, is kept\."):
            train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path)
    resumed = train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path, resume=True)
    assert float(resumed.stats["seen"]) == CONFIG.steps


TWO_DEVICES = """
import jax, sys
from pathlib import Path
from core.training.test_loop import *
assert jax.device_count() == 2
seen = []
def watched(params, stats, batch, key):
    jax.debug.inspect_array_sharding(batch, callback=lambda sharding: seen.append(len(sharding.device_set)))
    return loss(params, stats, batch, key)
folder, resume = Path(sys.argv[1]), sys.argv[2] == "resume"
trained = train(START, STATS, loss=watched, batch=batch, config=CONFIG, checkpoints=folder, resume=resume)
assert 2 in seen, seen
print(trained.params["slope"].ravel().tolist())
"""


def on_two_devices(checkpoints: Path, how: str) -> np.ndarray:
    """Returns the weights that a run on two devices ends with; how: "anew" or "resume"."""
    tests = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, str(checkpoints), how],
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": tests},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout))


def test_two_devices_share_a_batch_and_end_where_one_does(tmp_path: Path) -> None:
    alone = train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path / "one")
    shared = on_two_devices(tmp_path / "two", "anew")
    np.testing.assert_allclose(shared, alone.params["slope"].ravel(), atol=1e-5)


def test_a_run_goes_on_on_another_number_of_devices(tmp_path: Path) -> None:
    alone = train(START, STATS, loss=loss, batch=batch, config=CONFIG, checkpoints=tmp_path / "one")

    def one_device(*, resume: bool, steps: int) -> Trained:
        def interrupt(step: int) -> np.ndarray:
            if step == steps:
                raise Interrupted
            return batch(step)

        return train(
            START, STATS, loss=loss, batch=interrupt, config=CONFIG, checkpoints=tmp_path / "moved", resume=resume
        )

    with pytest.raises(Interrupted):
        one_device(resume=False, steps=6)
    on_two = on_two_devices(tmp_path / "moved", "resume")
    np.testing.assert_allclose(on_two, alone.params["slope"].ravel(), atol=1e-5)
    shutil.rmtree(tmp_path / "moved" / str(CONFIG.steps))  # as after an interruption
    back = one_device(resume=True, steps=CONFIG.steps)
    np.testing.assert_allclose(back.params["slope"], alone.params["slope"], atol=1e-5)
