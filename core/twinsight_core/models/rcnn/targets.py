"""The training targets of anchors and proposals: which ones count, their labels, and their boxes.

All shapes are fixed: true boxes are padded and marked, and random samples are masks or have a fixed maximum size. The
functions take one picture; `jax.vmap` applies them to a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from twinsight_core.models.rcnn.boxes import (
    BOX_HEAD_WEIGHTS,
    PROPOSAL_WEIGHTS,
    covered_share,
    encode,
    intersection_over_union,
)


@dataclass(frozen=True)
class Sampling:
    """What is sampled from each picture in a step.

    Source: Ren et al., "Faster R-CNN", NIPS 2015, sections 3.1.2 and 3.1.3 (anchors), and Girshick, "Fast R-CNN",
    ICCV 2015, section 2.3 (boxes of the box head, there 64 a picture).

    Attributes:
        anchors: anchors that count.
        anchor_share: most of them that are positive, 0..1.
        anchor_positive: overlap with a true box from which an anchor is positive.
        anchor_negative: overlap below which it is negative; in between it does not count.
        rois: boxes that the box head sees.
        roi_share: most of them that are positive, 0..1.
        roi_positive: overlap with a true box from which one of them is positive; the others are background.
        ignored_share: share of an anchor or box in an ignored region from which it does not count as background, 0..1.
            Source: Girshick et al., "Detectron", 2018, `TRAIN.CROWD_FILTER_THRESH`.

    Raises:
        ValueError: a value breaks its rule.
    """

    anchors: int = 256
    anchor_share: float = 0.5
    anchor_positive: float = 0.7
    anchor_negative: float = 0.3
    rois: int = 64
    roi_share: float = 0.25
    roi_positive: float = 0.5
    ignored_share: float = 0.7

    def __post_init__(self) -> None:
        for name in ("anchors", "rois"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        shares = ("anchor_share", "anchor_positive", "anchor_negative", "roi_share", "roi_positive", "ignored_share")
        for name in shares:
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be above 0 and at most 1.")
        if self.anchor_negative > self.anchor_positive:
            raise ValueError(
                f"`anchor_negative` (={self.anchor_negative}) must be at most `anchor_positive` "
                f"(={self.anchor_positive})."
            )


class AnchorTargets(NamedTuple):
    """What the anchors of a picture should say.

    Attributes:
        positive: [anchors] bool, a thing is there.
        sampled: [anchors] bool, the anchor counts in this step.
        deltas: [anchors, 4] float32, how the positive ones should change.
    """

    positive: jax.Array
    sampled: jax.Array
    deltas: jax.Array


class RoiTargets(NamedTuple):
    """The boxes that the box head sees of a picture and what it should say of them.

    Attributes:
        boxes: [rois, 4] float32, pixels.
        labels: [rois] int32, the class, or the number of classes for background.
        positive: [rois] bool, the box is of a class.
        sampled: [rois] bool, the box is there.
        deltas: [rois, 4] float32, how the positive ones should change.
    """

    boxes: jax.Array
    labels: jax.Array
    positive: jax.Array
    sampled: jax.Array
    deltas: jax.Array


def draw(key: jax.Array, *, positive: jax.Array, negative: jax.Array, count: int, most_positive: int) -> jax.Array:
    """Returns a random choice as a mask: up to `most_positive` positives, and negatives up to `count` in all.

    Args:
        key: random key.
        positive: [n] bool.
        negative: [n] bool, none of them positive.
        count: how many are drawn, where there are as many.
        most_positive: at most `count`.

    Returns:
        [n] bool.
    """
    order = jnp.argsort(jax.random.uniform(key, positive.shape))
    positive, negative = positive[order], negative[order]
    chosen = positive & (jnp.cumsum(positive) <= most_positive)
    chosen |= negative & (jnp.cumsum(negative) <= count - jnp.sum(chosen))
    return jnp.zeros_like(positive).at[order].set(chosen)


def anchor_targets(
    key: jax.Array,
    *,
    anchors: jax.Array,
    boxes: jax.Array,
    valid: jax.Array,
    how: Sampling,
    ignored: jax.Array | None = None,
) -> AnchorTargets:
    """Returns what the anchors of a picture should say.

    An anchor is positive if it overlaps a true box enough, or more than any other anchor overlaps that box.

    Source: Ren et al., "Faster R-CNN", NIPS 2015, section 3.1.2.

    Args:
        key: random key.
        anchors: [anchors, 4] float32, pixels.
        boxes: [boxes, 4] float32, pixels.
        valid: [boxes] bool, which of them are there.
        how: what is drawn.
        ignored: [boxes] bool, which of the others are regions to be ignored; None: none.
    """
    overlap = jnp.where(valid, intersection_over_union(anchors, boxes), 0.0)
    nearest, best = jnp.argmax(overlap, axis=1), jnp.max(overlap, axis=1)
    of_box = jnp.max(overlap, axis=0)
    is_best = jnp.any((overlap == of_box) & (of_box > 0), axis=1)
    positive = (best >= how.anchor_positive) | is_best
    sampled = draw(
        key,
        positive=positive,
        negative=~positive & (best < how.anchor_negative) & ~_in_ignored(anchors, boxes, ignored, how),
        count=how.anchors,
        most_positive=max(1, int(how.anchors * how.anchor_share)),
    )
    deltas = encode(boxes[nearest], anchors=anchors, weights=PROPOSAL_WEIGHTS)
    return AnchorTargets(positive=positive, sampled=sampled, deltas=deltas)


def roi_targets(
    key: jax.Array,
    *,
    proposals: jax.Array,
    there: jax.Array,
    boxes: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    classes: int,
    how: Sampling,
    ignored: jax.Array | None = None,
) -> RoiTargets:
    """Returns the boxes that the box head sees of a picture: drawn from the proposals and the true boxes themselves.

    Args:
        key: random key.
        proposals: [proposals, 4] float32, pixels.
        there: [proposals] bool, which of them are there.
        boxes: [boxes, 4] float32, pixels.
        labels: [boxes] int32, 0..classes - 1.
        valid: [boxes] bool, which of them are there.
        classes: how many.
        how: what is drawn.
        ignored: [boxes] bool, which of the others are regions to be ignored; None: none.
    """
    among, present = jnp.concatenate([proposals, boxes]), jnp.concatenate([there, valid])
    overlap = jnp.where(valid, intersection_over_union(among, boxes), 0.0)
    nearest = jnp.argmax(overlap, axis=1)
    positive = present & (jnp.max(overlap, axis=1) >= how.roi_positive)
    drawn = draw(
        key,
        positive=positive,
        negative=present & ~positive & ~_in_ignored(among, boxes, ignored, how),
        count=how.rois,
        most_positive=max(1, int(how.rois * how.roi_share)),
    )
    # The drawn ones first; those after them fill the fixed number and do not count.
    places = jnp.argsort(~drawn, stable=True)[: how.rois]
    places = jnp.pad(places, (0, how.rois - len(places)))
    sampled = jnp.arange(how.rois) < jnp.sum(drawn)
    positive = positive[places] & sampled
    chosen, true = among[places], nearest[places]
    return RoiTargets(
        boxes=jnp.where(sampled[:, None], chosen, 0.0),
        labels=jnp.where(positive, labels[true], classes).astype(jnp.int32),
        positive=positive,
        sampled=sampled,
        deltas=encode(boxes[true], anchors=chosen, weights=BOX_HEAD_WEIGHTS),
    )


def _in_ignored(boxes: jax.Array, regions: jax.Array, ignored: jax.Array | None, how: Sampling) -> jax.Array:
    """Returns which boxes lie in a region to be ignored, [n] bool.

    Args:
        boxes: [n, 4] float32, pixels.
        regions: [m, 4] float32, pixels.
        ignored: [m] bool, which of `regions` count; None: none.
        how: how much of a box must lie in one.
    """
    if ignored is None:
        return jnp.zeros(len(boxes), jnp.bool_)
    return jnp.any(ignored & (covered_share(boxes, regions) >= how.ignored_share), axis=1)
