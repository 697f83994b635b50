"""Faster R-CNN: proposals from a feature pyramid, then a class and a better box for each.

1. The backbone's maps become a pyramid (`fpn`).
2. For every anchor on every map the proposal head says whether a thing is there and how the box should change; the best
   that do not overlap are the proposals (`rpn`).
3. The features of each proposal (`roi_align`) go through two layers to the probability of each class and of background,
   and to a change of the box for each class.
4. For each class the best boxes that do not overlap are kept (`nms`); the answer is a fixed number of rows.

Source: Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NIPS 2015; on a
pyramid: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, whose section 4.2 has the box head.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from twinsight_core.losses.detection import box_classification, box_regression, objectness
from twinsight_core.models.backbones import build_backbone
from twinsight_core.models.configs.rcnn import FasterRCNNConfig
from twinsight_core.models.rcnn.anchors import anchor_shapes, level_anchors, map_sizes
from twinsight_core.models.rcnn.boxes import BOX_HEAD_WEIGHTS, clip, decode, picture_scale, wide_enough
from twinsight_core.models.rcnn.fpn import FeaturePyramid
from twinsight_core.models.rcnn.nms import non_maximum_suppression
from twinsight_core.models.rcnn.roi_align import roi_align
from twinsight_core.models.rcnn.rpn import LEAST_SIDE_PX, ProposalHead, propose
from twinsight_core.models.rcnn.targets import Sampling, anchor_targets, roi_targets

BINS = 7
"""Bins along each side of a box. Source: Lin et al., CVPR 2017, section 4.2."""

PROPOSAL_BETA = 1.0 / 9.0
"""Where smooth L1 of the anchors' deltas becomes a line. Source: the reference code of Ren et al. (sigma 3)."""

# Boxes of all classes that suppression looks at, for each row of the answer.
_CANDIDATES_PER_DETECTION = 4


class DetectionLosses(NamedTuple):
    """The parts of the loss, each [batch] float32.

    Attributes:
        objectness: is there a thing, of the sampled anchors.
        proposal: where the anchors' boxes should go.
        classification: what thing, of the sampled boxes.
        regression: where the sampled boxes should go.
    """

    objectness: jax.Array
    proposal: jax.Array
    classification: jax.Array
    regression: jax.Array


class _Proposals(NamedTuple):
    """What the first stage knows of a batch.

    Attributes:
        maps: the pyramid, finest first.
        anchors: [anchors, 4] float32 of each level, pixels.
        logits: [batch, anchors] float32 of each level.
        deltas: [batch, anchors, 4] float32 of each level.
        boxes: [batch, proposals, 4] float32, pixels; no gradient goes through them.
        there: [batch, proposals] bool.
    """

    maps: tuple[jax.Array, ...]
    anchors: tuple[jax.Array, ...]
    logits: tuple[jax.Array, ...]
    deltas: tuple[jax.Array, ...]
    boxes: jax.Array
    there: jax.Array


class FasterRCNN(nnx.Module):
    """A backbone, a pyramid, the head that proposes and the head that decides.

    Nothing but the backbone has batch norm.

    Args:
        config: what it is made of.
        rngs: source of the first weights.
    """

    def __init__(self, *, config: FasterRCNNConfig, rngs: nnx.Rngs) -> None:
        self._config = config
        self.backbone_config = config.backbone
        self.backbone = build_backbone(config.backbone, rngs=rngs)
        self._stages = tuple(self.backbone.stage_strides.index(stride) for stride in config.strides)
        self.pyramid = FeaturePyramid(
            channels_in=[self.backbone.stage_channels[stage] for stage in self._stages],
            channels=config.pyramid_channels,
            rngs=rngs,
        )
        self.proposal_head = ProposalHead(channels=config.pyramid_channels, shapes=config.shapes, rngs=rngs)
        self.box_head = BoxHead(
            channels=config.pyramid_channels, width=config.head_width, classes=config.classes, rngs=rngs
        )

    def telling_all(self) -> FasterRCNN:
        """Returns a copy with the same weights that drops no detection for its score."""
        copy = nnx.merge(*nnx.split(self))
        copy._config = replace(self._config, least_score=0.0)
        return copy

    @property
    def trunk(self) -> tuple[nnx.Module, ...]:
        """The modules before the head; see `bfloat16`."""
        return (self.backbone,)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the detections in each picture.

        Args:
            images: [batch, height, width, 3] uint8 (or float in the same range), RGB, 0..255.

        Returns:
            [batch, max_detections, 6] float32: x_min, y_min, x_max, y_max in fractions of the picture, score 0..1, and
            the label's number; by falling score; rows of zeros where nothing more was found.
        """
        _, height, width, _ = images.shape
        first = self._propose(images)
        logits, deltas = self._second(first.maps, first.boxes)
        detect = partial(_detections, config=self._config, height_px=height, width_px=width)
        return jax.vmap(detect)(logits, deltas, first.boxes, first.there)

    def losses(
        self,
        images: jax.Array,
        boxes: jax.Array,
        labels: jax.Array,
        valid: jax.Array,
        key: jax.Array,
        *,
        sampling: Sampling | None = None,
        ignored: jax.Array | None = None,
    ) -> DetectionLosses:
        """Returns the parts of the loss of each picture.

        Batch norm does what the network's mode says; in training mode its statistics are updated in place.

        Args:
            images: [batch, height, width, 3] uint8 (or float in the same range), RGB, 0..255.
            boxes: [batch, boxes, 4] float32, true boxes in fractions of the picture.
            labels: [batch, boxes] int32, 0..classes - 1.
            valid: [batch, boxes] bool, which of them are there.
            key: of what is drawn at random.
            sampling: what is drawn; None for its defaults.
            ignored: [batch, boxes] bool, which of the others are regions that are no background; None: none.
        """
        how = sampling or Sampling()
        batch, height, width, _ = images.shape
        true = boxes * picture_scale(height, width)
        first = self._propose(images)
        anchor_key, roi_key = jax.random.split(key)
        wanted = jax.vmap(partial(anchor_targets, anchors=jnp.concatenate(first.anchors), how=how))(
            jax.random.split(anchor_key, batch), boxes=true, valid=valid, ignored=ignored
        )
        logits, deltas = jnp.concatenate(first.logits, axis=1), jnp.concatenate(first.deltas, axis=1)
        rois = jax.vmap(partial(roi_targets, classes=self._config.classes, how=how))(
            jax.random.split(roi_key, batch),
            proposals=first.boxes,
            there=first.there,
            boxes=true,
            labels=labels,
            valid=valid,
            ignored=ignored,
        )
        class_logits, class_deltas = self._second(first.maps, rois.boxes)
        # Background has no deltas; its boxes do not count, so any class's will do.
        own = jnp.minimum(rois.labels, self._config.classes - 1)[..., None, None]
        return DetectionLosses(
            objectness=objectness(logits=logits, positive=wanted.positive, sampled=wanted.sampled),
            proposal=box_regression(
                predicted=deltas,
                target=wanted.deltas,
                positive=wanted.positive,
                sampled=wanted.sampled,
                beta=PROPOSAL_BETA,
            ),
            classification=box_classification(logits=class_logits, labels=rois.labels, sampled=rois.sampled),
            regression=box_regression(
                predicted=jnp.take_along_axis(class_deltas, own, axis=2)[:, :, 0],
                target=rois.deltas,
                positive=rois.positive,
                sampled=rois.sampled,
            ),
        )

    def _propose(self, images: jax.Array) -> _Proposals:
        config = self._config
        _, height, width, _ = images.shape
        stages = self.backbone.stages(images)
        maps = self.pyramid([stages[stage] for stage in self._stages])
        anchors = tuple(
            jnp.asarray(
                level_anchors(
                    rows,
                    columns,
                    stride=stride,
                    shapes=anchor_shapes(size, scales=config.anchor_scales, ratios=config.anchor_ratios),
                )
            )
            for (rows, columns), stride, size in zip(
                map_sizes(height, width, strides=config.strides), config.strides, config.anchor_sizes, strict=True
            )
        )
        logits, deltas = zip(*(self.proposal_head(one) for one in maps), strict=True)
        find = partial(
            propose,
            anchors=anchors,
            height_px=height,
            width_px=width,
            candidates=config.candidates,
            proposals=config.proposals,
            overlap=config.proposal_overlap,
        )
        boxes, there = jax.vmap(find)(*jax.lax.stop_gradient((logits, deltas)))
        return _Proposals(maps=maps, anchors=anchors, logits=logits, deltas=deltas, boxes=boxes, there=there)

    def _second(self, maps: tuple[jax.Array, ...], boxes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the box head's answer for boxes in pixels."""
        config = self._config
        features = roi_align(maps, boxes, strides=config.strides, canonical_px=config.canonical_px, size=BINS)
        return self.box_head(features)


class BoxHead(nnx.Module):
    """Two layers, then the classes and the boxes.

    Source: Lin et al., CVPR 2017, section 4.2; a box for each class and the first weights: Girshick, "Fast R-CNN", ICCV
    2015, sections 2.1 and 2.3.

    Args:
        channels: channels of the boxes' features.
        width: channels of the two layers.
        classes: how many, without background.
        rngs: source of the first weights.
    """

    def __init__(self, *, channels: int, width: int, classes: int, rngs: nnx.Rngs) -> None:
        he = nnx.initializers.he_normal()
        self.first = nnx.Linear(BINS * BINS * channels, width, kernel_init=he, rngs=rngs)
        self.second = nnx.Linear(width, width, kernel_init=he, rngs=rngs)
        self.classes = nnx.Linear(width, classes + 1, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)
        self.deltas = nnx.Linear(width, 4 * classes, kernel_init=nnx.initializers.normal(0.001), rngs=rngs)

    def __call__(self, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the logits of the classes, the last of background, and the deltas for each class.

        Args:
            features: [batch, boxes, bins, bins, channels] float32.

        Returns:
            [batch, boxes, classes + 1] float32 and [batch, boxes, classes, 4] float32.
        """
        batch, boxes = features.shape[:2]
        x = jax.nn.relu(self.first(features.reshape(batch, boxes, -1)))
        x = jax.nn.relu(self.second(x))
        return self.classes(x), self.deltas(x).reshape(batch, boxes, -1, 4)


def _detections(
    logits: jax.Array,
    deltas: jax.Array,
    proposals: jax.Array,
    there: jax.Array,
    *,
    config: FasterRCNNConfig,
    height_px: int,
    width_px: int,
) -> jax.Array:
    """Returns the rows of the answer for one picture.

    Args:
        logits: [proposals, classes + 1] float32, the last of background.
        deltas: [proposals, classes, 4] float32.
        proposals: [proposals, 4] float32, pixels.
        there: [proposals] bool.
        config: thresholds and sizes.
        height_px: height of the picture.
        width_px: width of the picture.
    """
    scores = jax.nn.softmax(logits, axis=-1)[:, :-1]
    scores = jnp.where(there[:, None], scores, 0.0).reshape(-1)
    best, places = jax.lax.top_k(scores, min(len(scores), _CANDIDATES_PER_DETECTION * config.max_detections))
    # Not `//` and `%`, whose remainder jax2onnx 0.17 can't express where the batch is left open.
    proposal = jax.lax.div(places, jnp.int32(config.classes))
    label = places - proposal * config.classes
    boxes = decode(deltas[proposal, label], anchors=proposals[proposal], weights=BOX_HEAD_WEIGHTS)
    boxes = clip(boxes, height_px=height_px, width_px=width_px)
    kept, found = non_maximum_suppression(
        boxes,
        best,
        (best >= config.least_score) & (best > 0) & wide_enough(boxes, least_px=LEAST_SIDE_PX),
        threshold=config.detection_overlap,
        count=config.max_detections,
        groups=label,
    )
    fractions = boxes[kept] / picture_scale(height_px, width_px)
    rows = jnp.concatenate([fractions, best[kept, None], label[kept, None].astype(jnp.float32)], axis=1)
    return jnp.where(found[:, None], rows, 0.0)
