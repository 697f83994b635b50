"""Faster R-CNN with a feature pyramid, all of it in static shapes.

boxes       overlap, deltas and clipping
anchors     the boxes that proposals start from
nms         non-maximum suppression
roi_align   features of a box, of equal size whatever the box
fpn, rpn    the pyramid and the head that proposes
targets     the training targets of anchors and proposals
network     the whole
"""

from __future__ import annotations

from twinsight_core.models.rcnn.network import DetectionLosses, FasterRCNN
from twinsight_core.models.rcnn.targets import Sampling

__all__ = ["DetectionLosses", "FasterRCNN", "Sampling"]
