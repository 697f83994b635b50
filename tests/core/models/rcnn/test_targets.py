import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.models.rcnn.boxes import BOX_HEAD_WEIGHTS, PROPOSAL_WEIGHTS, encode
from twinsight_core.models.rcnn.targets import Sampling, anchor_targets, draw, roi_targets

KEY = jax.random.key(0)
# Two true boxes and a place for a third.
BOXES = jnp.array([[0.0, 0, 10, 10], [40, 40, 60, 60], [0, 0, 0, 0]])
VALID = jnp.array([True, True, False])


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 30))
@settings(deadline=None, max_examples=40)
def test_positives_are_drawn_up_to_their_share_and_negatives_fill_up(seed: int, count: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    positive = rng.random(40) < rng.random()
    negative = ~positive & (rng.random(40) < 0.7)
    most = min(most, count)
    drawn = np.asarray(
        draw(
            jax.random.key(seed % 1000),
            positive=jnp.asarray(positive),
            negative=jnp.asarray(negative),
            count=count,
            most_positive=most,
        )
    )
    positives = min(most, int(positive.sum()))
    assert (drawn & positive).sum() == positives
    assert (drawn & negative).sum() == min(count - positives, int(negative.sum()))
    assert not (drawn & ~positive & ~negative).any()


def test_what_is_drawn_depends_on_the_key() -> None:
    everything, nothing = jnp.ones(100, bool), jnp.zeros(100, bool)
    masks = [
        draw(jax.random.key(seed), positive=everything, negative=nothing, count=50, most_positive=50)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_anchors_are_positive_by_overlap_or_as_the_best_of_a_box() -> None:
    anchors = jnp.array(
        [
            [0.0, 0, 10, 8],  # 0.8 of the first box
            [0, 0, 10, 5],  # 0.5: neither
            [0, 0, 10, 2],  # 0.2: negative
            [50, 40, 60, 60],  # 0.5 of the second box, the best there is
            [80, 80, 90, 90],  # nothing: negative
        ]
    )
    targets = anchor_targets(KEY, anchors=anchors, boxes=BOXES, valid=VALID, how=Sampling())
    assert targets.positive.tolist() == [True, False, False, True, False]
    assert targets.sampled.tolist() == [True, False, True, True, True]
    wanted = encode(BOXES[jnp.array([0, 1])], anchors=anchors[jnp.array([0, 3])], weights=PROPOSAL_WEIGHTS)
    np.testing.assert_allclose(targets.deltas[jnp.array([0, 3])], wanted)


def test_without_true_boxes_all_anchors_are_negative() -> None:
    anchors = jnp.array([[0.0, 0, 10, 10], [5, 5, 20, 20]])
    targets = anchor_targets(KEY, anchors=anchors, boxes=BOXES, valid=jnp.zeros(3, bool), how=Sampling())
    assert not targets.positive.any()
    assert targets.sampled.all()
    assert np.isfinite(targets.deltas).all()


def test_anchors_in_a_region_to_be_ignored_are_no_background() -> None:
    ignored = jnp.array([False, False, True])
    boxes = BOXES.at[2].set(jnp.array([70.0, 70, 100, 100]))
    anchors = jnp.array([[0.0, 0, 10, 10], [75, 75, 80, 80], [66, 70, 76, 80], [60, 70, 80, 90], [20, 20, 30, 30]])
    targets = anchor_targets(KEY, anchors=anchors, boxes=boxes, valid=VALID, how=Sampling(), ignored=ignored)
    # The third lies in the region with 0.6 of its area, the fourth with half: the rule is 0.7.
    assert targets.positive.tolist() == [True, False, False, False, False]
    assert targets.sampled.tolist() == [True, False, True, True, True]


def test_proposals_in_a_region_to_be_ignored_are_no_background() -> None:
    targets = roi_targets(
        KEY,
        proposals=jnp.array([[75.0, 75, 80, 80], [90, 0, 95, 5]]),
        there=jnp.ones(2, bool),
        boxes=BOXES.at[2].set(jnp.array([70.0, 70, 100, 100])),
        labels=jnp.array([2, 0, 1]),
        valid=VALID,
        classes=3,
        how=Sampling(rois=8, roi_share=1.0),
        ignored=jnp.array([False, False, True]),
    )
    drawn = {
        tuple(box) for box, sampled in zip(targets.boxes.tolist(), targets.sampled.tolist(), strict=True) if sampled
    }
    assert drawn == {(90, 0, 95, 5), (0, 0, 10, 10), (40, 40, 60, 60)}


def test_proposals_become_classes_or_background_and_true_boxes_join_them() -> None:
    proposals = jnp.array([[0.0, 0, 10, 6], [0, 0, 10, 4], [41, 41, 61, 61], [90, 90, 95, 95], [0, 0, 10, 10]])
    there = jnp.array([True, True, True, True, False])
    targets = roi_targets(
        KEY,
        proposals=proposals,
        there=there,
        boxes=BOXES,
        labels=jnp.array([2, 0, 1]),
        valid=VALID,
        classes=3,
        how=Sampling(rois=8, roi_share=0.5),
    )
    found = {
        tuple(box): (label, positive)
        for box, label, positive, sampled in zip(
            targets.boxes.tolist(),
            targets.labels.tolist(),
            targets.positive.tolist(),
            targets.sampled.tolist(),
            strict=True,
        )
        if sampled
    }
    assert found == {
        (0, 0, 10, 6): (2, True),
        (0, 0, 10, 4): (3, False),
        (41, 41, 61, 61): (0, True),
        (90, 90, 95, 95): (3, False),
        (0, 0, 10, 10): (2, True),
        (40, 40, 60, 60): (0, True),
    }
    assert targets.sampled.tolist() == [True] * 6 + [False] * 2
    assert not targets.positive[6:].any()
    row = targets.boxes.tolist().index([41, 41, 61, 61])
    np.testing.assert_allclose(
        targets.deltas[row], encode(BOXES[1], anchors=targets.boxes[row], weights=BOX_HEAD_WEIGHTS), rtol=1e-5
    )


def test_fewer_boxes_than_wanted_leave_places_that_do_not_count() -> None:
    targets = roi_targets(
        KEY,
        proposals=jnp.zeros((2, 4)),
        there=jnp.zeros(2, bool),
        boxes=BOXES,
        labels=jnp.array([2, 0, 1]),
        valid=VALID,
        classes=3,
        how=Sampling(rois=16, roi_share=1.0),
    )
    assert targets.boxes.shape == (16, 4)
    assert targets.sampled.tolist() == [True] * 2 + [False] * 14
    assert (targets.labels[2:] == 3).all()
    assert np.isfinite(targets.deltas).all()


def test_rules_of_the_sampling_are_told() -> None:
    with pytest.raises(ValueError, match=r"^`rois` \(=0\) must be at least 1\.$"):
        Sampling(rois=0)
    with pytest.raises(ValueError, match=r"^`roi_share` \(=1\.5\) must be above 0 and at most 1\.$"):
        Sampling(roi_share=1.5)
    with pytest.raises(ValueError, match="must be at most `anchor_positive`"):
        Sampling(anchor_negative=0.8)
