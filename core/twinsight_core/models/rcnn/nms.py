"""Non-maximum suppression in static shapes, without a loop over the boxes.

The greedy way keeps a box unless a better one that is itself kept overlaps it. That rule, applied to all boxes at once
and again until nothing changes, ends in the same answer: after k rounds every box is decided whose chain of better,
overlapping boxes is at most k long. A round is one product of a vector and a matrix; a handful of rounds do.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from twinsight_core.models.rcnn.boxes import intersection_over_union


def non_maximum_suppression(
    boxes: jax.Array,
    scores: jax.Array,
    valid: jax.Array,
    *,
    threshold: float,
    count: int,
    groups: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the best boxes that no better one overlaps.

    Source: Felzenszwalb et al., "Object Detection with Discriminatively Trained Part-Based Models", TPAMI 2010,
    section 7.2, with intersection over union as the measure as in Girshick et al., "R-CNN", CVPR 2014.

    Args:
        boxes: [n, 4] float32.
        scores: [n] float32; of equal ones the earlier box is the better.
        valid: [n] bool; others are not there.
        threshold: boxes that overlap by more are one thing, 0..1.
        count: most that are returned.
        groups: [n] integer; only boxes of one group suppress each other; None for one group.

    Returns:
        The places of the kept boxes, [count] int32, by falling score, and which of these count, [count] bool; where
        there are fewer the rest is 0 and False.
    """
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), stable=True)
    ranked, there = boxes[order], valid[order]
    overlapping = intersection_over_union(ranked, ranked) > threshold
    if groups is not None:
        overlapping &= groups[order][:, None] == groups[order][None, :]
    kept = _greedy(jnp.triu(overlapping, k=1).astype(jnp.float32), there)
    # The kept ones first, in their order; by numbers of which no two are alike, since OpenVINO's sorting is not stable.
    rank = jnp.arange(len(kept))
    first = jnp.argsort(jnp.where(kept, rank, rank + len(kept)))[:count]
    chosen = kept[first]
    places = jnp.where(chosen, order[first], 0).astype(jnp.int32)
    if len(first) == count:
        return places, chosen
    # Not a padding, which jax2onnx 0.17 can't express where the batch is left open.
    rest = jnp.zeros(count - len(first), jnp.int32)
    return jnp.concatenate([places, rest]), jnp.concatenate([chosen, rest.astype(bool)])


def _greedy(suppresses: jax.Array, valid: jax.Array) -> jax.Array:
    """Returns which boxes are kept, [n] bool.

    Args:
        suppresses: [n, n] float32, 1 where the row's box is better than the column's and overlaps it, else 0.
        valid: [n] bool.
    """

    def round_of(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept, _ = state
        return there * (kept @ suppresses < 0.5), kept

    # Numbers and not truths: a loop over a batch chooses between old and new, and ONNX Runtime can't between truths.
    there = valid.astype(jnp.float32)
    kept, _ = jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]), round_of, (there, there - 1.0))
    return kept > 0.5
