"""Knowledge distillation: a trained model teaches another one during training, besides the labels or instead of them.

1. The teacher is checked before anything slow: it has the student's task and classes, and scales pictures in the same
   way.
2. In each step it sees the same views as the student, scaled to its own input: a teacher that saw another crop would
   teach what is not in the picture. It is in evaluation mode and part of the compiled step.
3. The loss is `weight` x the distance of the student's outputs from the teacher's + (1 - `weight`) x the labels' loss.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, for the weighted loss; Beyer et
al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022, section 3, for the same views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from twinsight_core.errors import TrainingError
from twinsight_core.images import Preprocessing
from twinsight_core.losses import batch_similarity_distillation, knowledge_distillation
from twinsight_core.models.bfloat16 import in_bfloat16
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.folding import fold_batch_norm
from twinsight_core.models.precision import best_precision
from twinsight_core.models.registry import Network
from twinsight_core.models.tasks import Task
from twinsight_core.packages import ModelPackage
from twinsight_core.training.files import composed

NetworkT = TypeVar("NetworkT", Classifier, Network)

_NAMED = 10

Answer = Callable[[jax.Array], jax.Array]
"""[batch, height, width, 3] float32, RGB, 0..255 -> logits or embeddings, [batch, ...] float32."""


@dataclass(frozen=True)
class Distillation:
    """The teacher, its share of the loss, and its temperature.

    Attributes:
        teacher: the model that teaches.
        weight: the teacher's share of the loss, above 0, at most 1; the labels get the rest.
        temperature: divisor of the logits or cosines of both before they are compared, above 0.

    Raises:
        ValueError: a value breaks its rule.
    """

    teacher: ModelPackage
    weight: float
    temperature: float

    def __post_init__(self) -> None:
        # Written so that NaN fails.
        if not 0.0 < self.weight <= 1.0:
            raise ValueError(f"`weight` (={self.weight}) must be above 0 and at most 1.")
        if not self.temperature > 0.0:
            raise ValueError(f"`temperature` (={self.temperature}) must be above 0.")


@dataclass(frozen=True)
class Teacher:
    """A model that teaches.

    Attributes:
        answer: its outputs for views of any size; pure, to be called under jit.
        distance: of the student's outputs from the teacher's, [batch]; takes the student's, then the teacher's.
        weight: its share of the loss.
    """

    answer: Answer
    distance: Callable[[jax.Array, jax.Array], jax.Array]
    weight: float


def taught(
    teacher: Teacher | None, *, labels: jax.Array, views: jax.Array, answers: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of a step, and its parts by name; without a teacher it is the labels' loss and has no parts.

    Args:
        teacher: None for none.
        labels: the labels' loss on the student's outputs, scalar.
        views: [batch, height, width, 3] float32, RGB, 0..255; what the student saw.
        answers: the student's logits or embeddings of them, [batch, ...] float32.
    """
    if teacher is None:
        return labels, {}
    distilled = jnp.mean(teacher.distance(answers, teacher.answer(views)))
    whole = teacher.weight * distilled + (1.0 - teacher.weight) * labels
    return whole, {"distillation": distilled, "labels": labels}


def check_teacher(package: ModelPackage, task: Task) -> None:
    """Checks that a model can teach one of a task: its own task, and how it sees pictures.

    Raises:
        TrainingError: it has another task, or sees another part of a picture than the student does.
    """
    card = package.card
    if card.task != task:
        raise TrainingError(
            f"The teacher `{package.name}` must be for {task}, like the trained model; it is for {card.task}.",
            reason="TEACHER_MISMATCH",
        )
    if card.preprocessing.fit != "stretch":
        raise TrainingError(
            f"The teacher `{package.name}` must see whole pictures stretched to its input (fit `stretch`), like the "
            f"trained model; its fit is `{card.preprocessing.fit}`.",
            reason="TEACHER_MISMATCH",
        )


def label_teacher(how: Distillation, classes: Sequence[str]) -> Teacher:
    """Returns a classifier as the teacher of one of the same classes.

    It compares softened probabilities (`knowledge_distillation`) of the logits as trained, without a calibration's
    temperature.

    Args:
        how: the model, weight and temperature; Hinton et al. tried temperatures of 1 to 20.
        classes: the student's, in the order of its logits; the teacher's may be in another.

    Raises:
        TrainingError: it is not a classifier, sees pictures differently, or has other classes, which are named.
        PackageError: its weights can't be read.
    """
    package = how.teacher
    check_teacher(package, "classification")
    labels = [composed(label) for label in package.card.labels]
    ours, theirs = sorted(set(classes) - set(labels)), sorted(set(labels) - set(classes))
    if ours or theirs:
        told = [f"{where}: {_listed(one)}" for where, one in (("it lacks", ours), ("the data lacks", theirs)) if one]
        raise TrainingError(
            f"The teacher `{package.name}` must have the classes of the data; {'; '.join(told)}.",
            reason="TEACHER_CLASSES",
        )
    network = package.build()
    if not isinstance(network, Classifier):
        raise TypeError(f"The architecture `{package.card.architecture}` has no logits.")
    order = np.array([labels.index(name) for name in classes])

    def distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
        return knowledge_distillation(student_logits=student, teacher_logits=teacher, temperature=how.temperature)

    answer = _frozen(network, lambda frozen, images: frozen.logits(images)[:, order], package.card.preprocessing)
    return Teacher(answer=answer, distance=distance, weight=how.weight)


def embedding_teacher(how: Distillation) -> Teacher:
    """Returns an embedding as the teacher of another one, of any dimension.

    It compares how close each picture of a batch is to all others (`batch_similarity_distillation`).

    Args:
        how: the model, weight and temperature; the recipe of `base` has a temperature of 0.1.

    Raises:
        TrainingError: it is not an embedding, or sees pictures differently.
        PackageError: its weights can't be read.
    """
    check_teacher(how.teacher, "embedding")

    def distance(student: jax.Array, teacher: jax.Array) -> jax.Array:
        return batch_similarity_distillation(student=student, teacher=teacher, temperature=how.temperature)

    answer = _frozen(how.teacher.build(), lambda frozen, images: frozen(images), how.teacher.card.preprocessing)
    return Teacher(answer=answer, distance=distance, weight=how.weight)


def _frozen(network: NetworkT, run: Callable[[NetworkT, jax.Array], jax.Array], to: Preprocessing) -> Answer:
    """Returns a network in evaluation mode as a pure function of views of any size."""
    folded = fold_batch_norm(network)
    graph, state = nnx.split(in_bfloat16(folded, weights=True) if best_precision() == "bf16" else folded)

    def answer(views: jax.Array) -> jax.Array:
        shape = (len(views), to.height_px, to.width_px, 3)
        seen = views
        if views.shape != shape:
            # Rounded, like a decoder's output.
            seen = jnp.round(jax.image.resize(views, shape, "linear"))
        return run(nnx.merge(graph, state), seen)

    return answer


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
