from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.rcnn import DetectionLosses, FasterRCNN, Sampling
from twinsight_core.models.rcnn.boxes import intersection_over_union
from twinsight_core.models.rcnn.fpn import FeaturePyramid
from twinsight_core.training.trainable import Arrays, Trainable

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3)).astype(np.uint8)


@cache
def detector(config: FasterRCNNConfig) -> FasterRCNN:
    network = drawn(partial(FasterRCNN, config=config), seed=0)
    network.eval()  # type: ignore[no-untyped-call]  # flax leaves it untyped
    return network


@cache
def compiled(config: FasterRCNNConfig) -> Callable[[np.ndarray], jax.Array]:
    graph, state = nnx.split(detector(config))
    run = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
    return lambda images: run(state, images)


@pytest.fixture(scope="module")
def noisy(tiny: FasterRCNNConfig) -> FasterRCNNConfig:
    """Lets untrained scores through, which are all about a third."""
    return replace(tiny, least_score=0.0)


def test_the_answer_is_boxes_in_fractions_by_falling_score(noisy: FasterRCNNConfig) -> None:
    answers = np.asarray(compiled(noisy)(PIXELS))
    assert answers.shape == (3, *noisy.answer_shape)
    assert answers.dtype == np.float32
    for rows in answers:
        there = rows.any(axis=1)
        found = rows[there]
        assert len(found) > 0
        assert there[: len(found)].all()
        assert (found[:, :4] >= 0).all()
        assert (found[:, :4] <= 1).all()
        assert (found[:, 2:4] > found[:, :2]).all()
        assert (np.diff(found[:, 4]) <= 0).all()
        assert ((found[:, 4] > 0) & (found[:, 4] < 1)).all()
        assert set(found[:, 5]) <= {0.0, 1.0}


def test_boxes_of_a_class_do_not_overlap_too_much(noisy: FasterRCNNConfig) -> None:
    for rows in np.asarray(compiled(noisy)(PIXELS)):
        for label in (0, 1):
            boxes = jnp.asarray(rows[rows.any(axis=1) & (rows[:, 5] == label)][:, :4] * [96, 64, 96, 64])
            overlap = np.asarray(intersection_over_union(boxes, boxes))
            assert (overlap[~np.eye(len(boxes), dtype=bool)] <= noisy.detection_overlap + 1e-5).all()


def test_where_no_score_is_high_enough_all_rows_are_zero(tiny: FasterRCNNConfig) -> None:
    answers = compiled(replace(tiny, least_score=0.99))(PIXELS)
    assert not np.asarray(answers).any()


def test_a_picture_is_answered_alike_alone_and_in_a_batch(noisy: FasterRCNNConfig) -> None:
    together = np.asarray(compiled(noisy)(PIXELS))
    alone = np.concatenate([np.asarray(compiled(noisy)(PIXELS[one : one + 1])) for one in range(3)])
    np.testing.assert_allclose(alone, together, atol=1e-4)


def test_the_losses_are_one_value_a_picture_and_finite_without_boxes(tiny: FasterRCNNConfig) -> None:
    boxes = jnp.zeros((3, 4, 4)).at[0, 0].set(jnp.array([0.1, 0.1, 0.4, 0.5]))
    valid = jnp.zeros((3, 4), bool).at[0, 0].set(True)
    trainable = Trainable(detector(tiny))

    def total(params: Arrays, key: jax.Array) -> tuple[jax.Array, DetectionLosses]:
        network = trainable.network(params)
        losses = network.losses(jnp.asarray(PIXELS), boxes, jnp.zeros((3, 4), int), valid, key, sampling=Sampling())
        return jnp.mean(jnp.stack(losses)), losses

    gradient = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, losses), slopes = gradient(trainable.params, jax.random.key(0))
    assert [loss.shape for loss in losses] == [(3,)] * 4
    assert all(np.isfinite(loss).all() for loss in losses)
    # Only the first picture has a box to move to.
    _, proposal, _, regression = losses
    assert (proposal[0] > 0, regression[0] > 0) == (True, True)
    assert proposal[1:].tolist() == [0, 0]
    assert regression[1:].tolist() == [0, 0]
    assert all(np.isfinite(slope).all() for slope in slopes.values())
    moved = {name.partition(".")[0] for name, slope in slopes.items() if slope.any()}
    assert moved == {"backbone", "pyramid", "proposal_head", "box_head"}


def test_only_the_backbone_has_running_statistics(tiny: FasterRCNNConfig) -> None:
    flat = nnx.to_flat_state(nnx.state(detector(tiny), nnx.BatchStat))
    assert {place[0] for place, _ in flat} == {"backbone"}


def test_coarse_maps_reach_finer_ones_in_the_pyramid_but_not_the_other_way() -> None:
    pyramid = FeaturePyramid(channels_in=(4, 6), channels=8, rngs=nnx.Rngs(0))
    fine, coarse = jnp.ones((1, 5, 7, 4)), jnp.ones((1, 3, 4, 6))
    still = pyramid([fine, coarse])
    assert [one.shape for one in still] == [(1, 5, 7, 8), (1, 3, 4, 8)]
    of_coarse = pyramid([fine, coarse.at[0, 0, 0].set(5.0)])
    assert (of_coarse[0] != still[0]).any()
    of_fine = pyramid([fine.at[0, 0, 0].set(5.0), coarse])
    np.testing.assert_array_equal(of_fine[1], still[1])
