from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twinsight_core.training.loop import LoopConfig, Params, train

CONFIG = LoopConfig(steps=12, learning_rate=0.05, warmup_steps=2, checkpoint_every=4, report_every=5)
START: Params = {"slope": jnp.zeros((2, 1)), "offset": jnp.zeros(1)}


def batch(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=(16, 2)).astype(np.float32)


def loss(params: Params, batch: np.ndarray, key: jax.Array) -> jax.Array:
    """Distance to 3 x0 - 2 x1 + 1, under noise that depends on the key."""
    wanted = jnp.asarray(batch) @ jnp.array([[3.0], [-2.0]]) + 1.0
    noise = 0.01 * jax.random.normal(key, wanted.shape)
    return jnp.mean(jnp.square(batch @ params["slope"] + params["offset"] - wanted + noise))


class Interrupted(Exception):
    """Stands for a power cut."""


def test_training_lowers_the_loss_and_logs_rate_and_time_to_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = LoopConfig(steps=200, learning_rate=0.1, warmup_steps=5, average=0.9, checkpoint_every=100)
    with caplog.at_level("INFO"):
        params = train(START, loss=loss, batch=batch, config=config, checkpoint=tmp_path / "run.safetensors")
    np.testing.assert_allclose(params["slope"], [[3.0], [-2.0]], atol=0.1)
    np.testing.assert_allclose(params["offset"], [1.0], atol=0.1)
    assert caplog.messages[-1].startswith("step 200/200  loss 0.0")
    assert caplog.messages[-1].endswith(" steps/s  0 s to go")


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = train(START, loss=loss, batch=batch, config=CONFIG, checkpoint=tmp_path / "whole.safetensors")

    def interrupt(step: int) -> np.ndarray:
        if step == 7:
            raise Interrupted
        return batch(step)

    path = tmp_path / "run.safetensors"
    with pytest.raises(Interrupted):
        train(START, loss=loss, batch=interrupt, config=CONFIG, checkpoint=path)
    asked = []

    def remember(step: int) -> np.ndarray:
        asked.append(step)
        return batch(step)

    resumed = train(START, loss=loss, batch=remember, config=CONFIG, checkpoint=path, resume=True)
    assert asked == list(range(4, 12))
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value)
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".partial"] == []


def test_without_resume_a_run_starts_at_the_first_step(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    first = train(START, loss=loss, batch=batch, config=CONFIG, checkpoint=path)
    again = train(START, loss=loss, batch=batch, config=CONFIG, checkpoint=path)
    np.testing.assert_array_equal(again["slope"], first["slope"])


def test_the_running_average_is_shown_at_each_checkpoint_but_the_last(tmp_path: Path) -> None:
    shown = []
    train(
        START,
        loss=loss,
        batch=batch,
        config=CONFIG,
        checkpoint=tmp_path / "run.safetensors",
        at_checkpoint=lambda step, params: shown.append((step, float(params["offset"][0]))),
    )
    assert [step for step, _ in shown] == [4, 8]
    assert 0 < shown[0][1] < shown[1][1]


def test_a_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(START, loss=loss, batch=batch, config=CONFIG, checkpoint=path)
    other = {"slope": jnp.zeros((3, 1)), "offset": jnp.zeros(1)}
    with pytest.raises(ValueError, match=r"the checkpoint is of other weights; start without it\.$"):
        train(other, loss=loss, batch=batch, config=CONFIG, checkpoint=path, resume=True)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"^the loss is nan near step 5\.$"):
        train(
            START,
            loss=lambda params, batch, key: loss(params, batch, key) * jnp.nan,
            batch=batch,
            config=CONFIG,
            checkpoint=tmp_path / "run.safetensors",
        )
