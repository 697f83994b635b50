"""The head that proposes: for every anchor whether a thing is there, and how the box should change."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from twinsight_core.models.rcnn.boxes import PROPOSAL_WEIGHTS, clip, decode, wide_enough
from twinsight_core.models.rcnn.nms import non_maximum_suppression

# Proposals that are thinner are dropped; their logarithm would rule the box head's deltas.
LEAST_SIDE_PX = 1.0


class ProposalHead(nnx.Module):
    """A 3x3 convolution and two of 1x1, the same for every map of the pyramid.

    Source: Ren et al., "Faster R-CNN", NIPS 2015, section 3.1, on every level as in Lin et al., "Feature Pyramid
    Networks for Object Detection", CVPR 2017, section 4.1; first weights as in the former.

    Args:
        channels: channels of the maps.
        shapes: anchors around each place.
        rngs: source of the first weights.
    """

    def __init__(self, *, channels: int, shapes: int, rngs: nnx.Rngs) -> None:
        small = nnx.initializers.normal(0.01)
        self.conv = nnx.Conv(
            channels, channels, kernel_size=(3, 3), padding="SAME", kernel_init=nnx.initializers.he_normal(), rngs=rngs
        )
        self.objectness = nnx.Linear(channels, shapes, kernel_init=small, rngs=rngs)
        self.deltas = nnx.Linear(channels, 4 * shapes, kernel_init=small, rngs=rngs)

    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the logits and deltas of the anchors of one map.

        Args:
            features: [batch, rows, columns, channels] float32.

        Returns:
            [batch, anchors] float32 and [batch, anchors, 4] float32, in the order of `level_anchors`.
        """
        x = jax.nn.relu(self.conv(features))
        batch = features.shape[0]  # `len` would want a number where the batch is left open
        return self.objectness(x).reshape(batch, -1), self.deltas(x).reshape(batch, -1, 4)


def propose(
    logits: Sequence[jax.Array],
    deltas: Sequence[jax.Array],
    *,
    anchors: Sequence[jax.Array],
    height_px: int,
    width_px: int,
    candidates: int,
    proposals: int,
    overlap: float,
) -> tuple[jax.Array, jax.Array]:
    """Returns where things may be in one picture.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 4.1.

    Args:
        logits: [anchors] float32 of each level.
        deltas: [anchors, 4] float32 of each level.
        anchors: [anchors, 4] float32 of each level, pixels.
        height_px: height of the picture.
        width_px: width of the picture.
        candidates: best anchors of each level that are looked at.
        proposals: most that are returned.
        overlap: of proposals that overlap by more, only the best stays.

    Returns:
        [proposals, 4] float32, pixels, by falling score, and which of them are there, [proposals] bool.
    """
    scores, boxes = [], []
    for level_logits, level_deltas, level in zip(logits, deltas, anchors, strict=True):
        best, places = jax.lax.top_k(level_logits, min(candidates, len(level)))
        scores.append(best)
        boxes.append(decode(level_deltas[places], anchors=level[places], weights=PROPOSAL_WEIGHTS))
    among = clip(jnp.concatenate(boxes), height_px=height_px, width_px=width_px)
    places, there = non_maximum_suppression(
        among,
        jnp.concatenate(scores),
        wide_enough(among, least_px=LEAST_SIDE_PX),
        threshold=overlap,
        count=proposals,
    )
    return jnp.where(there[:, None], among[places], 0.0), there
