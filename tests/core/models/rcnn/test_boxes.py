import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinsight_core.models.rcnn.boxes import (
    BOX_HEAD_WEIGHTS,
    MAX_LOG_GROWTH,
    PROPOSAL_WEIGHTS,
    box_area,
    clip,
    decode,
    encode,
    intersection_over_union,
    wide_enough,
)

corner = st.floats(0, 300, width=32)
side = st.floats(1, 200, width=32)
box = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
boxes = st.lists(box, min_size=5, max_size=5).map(lambda rows: np.array(rows, np.float32))


def reference_iou(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Box by box, in float64."""
    result = np.zeros((len(left), len(right)))
    for i, a in enumerate(left.astype(np.float64)):
        for j, b in enumerate(right.astype(np.float64)):
            width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
            result[i, j] = width * height / union if union > 0 else 0.0
    return result


def test_two_squares_that_share_a_quarter_overlap_by_a_seventh() -> None:
    left = jnp.array([[0.0, 0.0, 2.0, 2.0]])
    right = jnp.array([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 4.0, 2.0], [0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0]])
    np.testing.assert_allclose(intersection_over_union(left, right)[0], [1 / 7, 0, 1, 0.5], rtol=1e-6)


def test_boxes_without_area_overlap_nothing() -> None:
    points = jnp.array([[1.0, 1.0, 1.0, 1.0], [3.0, 3.0, 2.0, 2.0]])
    assert box_area(points).tolist() == [0, 0]
    assert intersection_over_union(points, points).tolist() == [[0, 0], [0, 0]]


@given(boxes, boxes)
@settings(deadline=None, max_examples=25)
def test_overlap_is_that_of_the_reference(left: np.ndarray, right: np.ndarray) -> None:
    overlap = np.asarray(intersection_over_union(jnp.asarray(left), jnp.asarray(right)))
    np.testing.assert_allclose(overlap, reference_iou(left, right), atol=1e-4)
    np.testing.assert_allclose(overlap, np.asarray(intersection_over_union(jnp.asarray(right), jnp.asarray(left))).T)


def test_deltas_are_shifts_in_anchor_sides_and_logarithms_of_growth() -> None:
    anchor = jnp.array([10.0, 10.0, 30.0, 50.0])  # 20 x 40 around (20, 30)
    target = jnp.array([15.0, 10.0, 55.0, 30.0])  # 40 x 20 around (35, 20)
    deltas = encode(target, anchors=anchor, weights=PROPOSAL_WEIGHTS)
    np.testing.assert_allclose(deltas, [15 / 20, -10 / 40, np.log(2), -np.log(2)], rtol=1e-6)
    weighted = encode(target, anchors=anchor, weights=BOX_HEAD_WEIGHTS)
    np.testing.assert_allclose(weighted, np.asarray(deltas) * [10, 10, 5, 5], rtol=1e-6)


@given(boxes, boxes, st.sampled_from([PROPOSAL_WEIGHTS, BOX_HEAD_WEIGHTS]))
@settings(deadline=None, max_examples=25)
def test_decoding_undoes_encoding(
    targets: np.ndarray, anchors: np.ndarray, weights: tuple[float, float, float, float]
) -> None:
    # A side may not grow more than from 16 to 1000 pixels.
    targets[:, 2:] = np.minimum(targets[:, 2:], targets[:, :2] + 60 * (anchors[:, 2:] - anchors[:, :2]))
    deltas = encode(jnp.asarray(targets), anchors=jnp.asarray(anchors), weights=weights)
    np.testing.assert_allclose(decode(deltas, anchors=jnp.asarray(anchors), weights=weights), targets, atol=0.02)


def test_growth_has_an_end() -> None:
    grown = decode(jnp.array([0.0, 0.0, 100.0, 0.0]), anchors=jnp.array([0.0, 0.0, 16.0, 16.0]), weights=(1, 1, 1, 1))
    np.testing.assert_allclose(grown, [-492, 0, 508, 16], rtol=1e-5)
    assert pytest.approx(62.5) == np.exp(MAX_LOG_GROWTH)


def test_deltas_of_boxes_without_area_are_finite() -> None:
    nothing = jnp.zeros(4)
    assert np.isfinite(encode(nothing, anchors=jnp.array([0.0, 0.0, 4.0, 4.0]), weights=PROPOSAL_WEIGHTS)).all()
    assert np.isfinite(encode(nothing, anchors=nothing, weights=PROPOSAL_WEIGHTS)).all()


def test_clipping_leaves_what_lies_inside() -> None:
    outside = jnp.array([[-5.0, 3.0, 400.0, 500.0], [330.0, 0.0, 350.0, 10.0]])
    clipped = clip(outside, height_px=240, width_px=320)
    assert clipped.tolist() == [[0, 3, 320, 240], [320, 0, 320, 10]]
    assert wide_enough(clipped, least_px=1.0).tolist() == [True, False]
