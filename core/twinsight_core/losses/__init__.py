"""Losses of embeddings and classifiers: pure functions of arrays, one value an example; the caller reduces."""

from __future__ import annotations

from twinsight_core.losses.classification import (
    cross_entropy,
    effective_number_weights,
    focal,
    logit_adjusted,
)
from twinsight_core.losses.distillation import (
    batch_similarity_distillation,
    knowledge_distillation,
    similarity_distillation,
)
from twinsight_core.losses.metric import (
    arcface,
    contrastive,
    supervised_contrastive,
    triplet_batch_hard,
    triplet_semi_hard,
)

__all__ = [
    "arcface",
    "batch_similarity_distillation",
    "contrastive",
    "cross_entropy",
    "effective_number_weights",
    "focal",
    "knowledge_distillation",
    "logit_adjusted",
    "similarity_distillation",
    "supervised_contrastive",
    "triplet_batch_hard",
    "triplet_semi_hard",
]
