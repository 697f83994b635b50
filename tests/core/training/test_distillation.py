from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from twinsight_core.errors import TrainingError
from twinsight_core.evaluation.retrieval import retrieval_scores
from twinsight_core.images import Preprocessing
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.architectures import ARCHITECTURES, Config
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.resnet import ResNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.models.registry import Network
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.packages import ModelCard, ModelPackage, save_package
from twinsight_core.training import siamese
from twinsight_core.training.augment import PRESETS, Augmentation
from twinsight_core.training.classifier import ClassifierTraining, train_classifier
from twinsight_core.training.data import LabelledImages, read_class_folders
from twinsight_core.training.distillation import (
    Distillation,
    Teacher,
    embedding_teacher,
    label_teacher,
    taught,
)
from twinsight_core.training.evaluate import embedder
from twinsight_core.training.loop import LoopConfig

SIDE = 16
CHEAP = Augmentation(colour=0.0, grey=0.0, blur=0.0, jpeg=0.0)
SIZE = Preprocessing(height_px=SIDE, width_px=SIDE)
BACKBONE = ResNetConfig(depths=(1, 1), widths=(8, 16), stem="small")
CLASSES = ("class00", "class01", "class02", "class03", "class04", "class05")
LABELS = ClassifierConfig(backbone=BACKBONE, classes=len(CLASSES))
VECTORS = SiameseConfig(backbone=BACKBONE, dimension=16, pooling="flatten", map_px=8)
LESSON = LoopConfig(steps=30, learning_rate=1e-2, warmup_steps=5, checkpoint_every=15, report_every=1)
HOW = ClassifierTraining(
    network=LABELS, preprocessing=SIZE, batch=24, smoothing=0.0, augmentation=PRESETS["none"], loop=LESSON
)
ALIKE = siamese.SiameseTraining(
    network=VECTORS, preprocessing=SIZE, classes=6, pictures=4, augmentation=PRESETS["none"], loop=LESSON
)


def packed(
    folder: Path,
    network: Network,
    config: Config,
    *,
    labels: tuple[str, ...] = (),
    side: int = SIDE,
    fit: Literal["stretch", "crop", "pad"] = "stretch",
) -> ModelPackage:
    card = ModelCard(
        architecture=next(name for name, kind in ARCHITECTURES.items() if isinstance(config, kind)),
        config=config,
        task=config.TASK,
        preprocessing=Preprocessing(height_px=side, width_px=side, fit=fit),
        dimension=config.dimension if isinstance(config, SiameseConfig) else 0,
        labels=labels,
        licence="none",
        training_data="drawings",
        description="a teacher",
    )
    return save_package(folder, card, network)


def classifier(seed: int = 0) -> Classifier:
    return drawn(partial(Classifier, config=LABELS), seed=seed)


def embedding(seed: int = 0) -> SiameseNetwork:
    return drawn(partial(SiameseNetwork, config=VECTORS), seed=seed)


@pytest.fixture(scope="module")
def pictures(write_drawings: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    """Six classes of 20 pictures."""
    path = tmp_path_factory.mktemp("data") / "set.zip"
    write_drawings(path, groups=1, classes=len(CLASSES), pictures=20)
    return read_class_folders(path, preprocessing=SIZE)


def test_the_loss_is_the_weighted_mean_of_what_the_teacher_and_the_labels_say() -> None:
    # The distances are 1, 2 and 6, their mean is 3; a quarter of it and three quarters of 8 are 6.75.
    teacher = Teacher(
        answer=lambda views: views[:, 0, 0, 0],
        distance=lambda student, teacher: jnp.abs(student - teacher),
        weight=0.25,
    )
    seen = jnp.broadcast_to(jnp.array([10.0, 20.0, 30.0])[:, None, None, None], (3, 2, 2, 3))
    answers = jnp.array([11.0, 18.0, 36.0])
    value, parts = taught(teacher, labels=jnp.array(8.0), views=seen, answers=answers)
    assert float(value) == pytest.approx(6.75)
    assert {name: float(part) for name, part in parts.items()} == pytest.approx({"distillation": 3.0, "labels": 8.0})
    alone, no_parts = taught(None, labels=jnp.array(8.0), views=seen, answers=answers)
    assert (float(alone), no_parts) == (8.0, {})


@pytest.mark.parametrize(
    ("weight", "temperature", "message"),
    [
        (0.0, 1.0, r"^`weight` \(=0.0\) must be above 0 and at most 1\.$"),
        (1.1, 1.0, r"^`weight` \(=1.1\) must be"),
        (float("nan"), 1.0, r"^`weight` \(=nan\) must be"),
        (0.5, 0.0, r"^`temperature` \(=0.0\) must be above 0\.$"),
    ],
)
def test_a_weight_or_temperature_that_means_nothing_is_refused(
    weight: float, temperature: float, message: str, tmp_path: Path
) -> None:
    package = packed(tmp_path / "any", classifier(), LABELS, labels=CLASSES)
    with pytest.raises(ValueError, match=message):
        Distillation(package, weight, temperature)


def test_a_teacher_answers_at_its_own_size_in_evaluation_mode_and_in_the_order_of_the_students_classes(
    tmp_path: Path,
) -> None:
    labels = CLASSES[::-1]
    package = packed(tmp_path / "large", classifier(3), replace(LABELS, temperature=2.0), labels=labels, side=2 * SIDE)
    teacher = label_teacher(Distillation(package, 0.5, 4.0), CLASSES)
    views = jnp.asarray(np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3)), jnp.float32)
    network = package.build()
    assert isinstance(network, Classifier)
    scaled = jnp.round(jax.image.resize(views, (5, 2 * SIDE, 2 * SIDE, 3), "linear"))
    answers = jax.jit(teacher.answer)(views)
    np.testing.assert_allclose(answers, network.logits(scaled)[:, ::-1], rtol=1e-4, atol=1e-5)
    # Batch norm's statistics are the package's, whatever else is in the batch.
    np.testing.assert_allclose(teacher.answer(views[:1]), answers[:1], rtol=1e-4, atol=1e-5)


def test_classes_that_differ_are_named(tmp_path: Path) -> None:
    package = packed(tmp_path / "other", classifier(), LABELS, labels=("bird", *CLASSES[1:]))
    with pytest.raises(
        TrainingError,
        match=r"^The teacher `other` must have the classes of the data; it lacks: class00; the data lacks: bird\.$",
    ):
        label_teacher(Distillation(package, 0.5, 4.0), CLASSES)
    with pytest.raises(TrainingError, match=r"; the data lacks: bird, class03, class04, class05\.$"):
        label_teacher(Distillation(package, 0.5, 4.0), CLASSES[1:3])
    alike = packed(tmp_path / "alike", classifier(), LABELS, labels=("cafe\u0301", *CLASSES[1:]))
    label_teacher(Distillation(alike, 0.5, 4.0), ("caf\xe9", *CLASSES[1:]))  # the same in another Unicode form


def test_a_teacher_of_another_kind_or_fit_is_refused(tmp_path: Path) -> None:
    labels = packed(tmp_path / "labels", classifier(), LABELS, labels=CLASSES)
    vectors = packed(tmp_path / "vectors", embedding(), VECTORS)
    cut = packed(tmp_path / "cut", embedding(), VECTORS, fit="crop")
    with pytest.raises(
        TrainingError,
        match=r"^The teacher `vectors` must be for classification, like the trained model; it is for embedding\.$",
    ):
        label_teacher(Distillation(vectors, 0.5, 4.0), CLASSES)
    with pytest.raises(TrainingError, match=r"^The teacher `labels` must be for embedding, .* for classification\.$"):
        embedding_teacher(Distillation(labels, 0.5, 0.1))
    with pytest.raises(TrainingError, match=r"^The teacher `cut` must see whole pictures .*; its fit is `crop`\.$"):
        embedding_teacher(Distillation(cut, 0.5, 0.1))


class Losses:
    """Keeps the losses of a run, and ends it after a step where that is wanted."""

    def __init__(self, *, last: int | None = None) -> None:
        self.seen: list[dict[str, float]] = []
        self._last = last

    def on_start(self, step: int, steps: int) -> None: ...

    def on_steps(self, step: int, losses: dict[str, float]) -> None:
        self.seen.append(losses)
        if step == self._last:
            raise InterruptedError

    def on_score(self, step: int, score: float) -> None: ...

    def on_early_end(self, step: int, best_step: int) -> None: ...


def test_a_resumed_run_with_a_teacher_has_the_losses_of_one_that_was_not_interrupted(
    pictures: LabelledImages, tmp_path: Path
) -> None:
    package = packed(tmp_path / "teacher", classifier(3), LABELS, labels=CLASSES)
    teacher = label_teacher(Distillation(package, 0.5, 4.0), CLASSES)
    how = replace(HOW, augmentation=CHEAP, loop=replace(LESSON, steps=6, checkpoint_every=2))

    def run(folder: str, watcher: Losses, *, resume: bool = False) -> Classifier:
        return train_classifier(
            classifier(), pictures, how, checkpoints=tmp_path / folder, teacher=teacher, resume=resume,
            watchers=(watcher,),
        )[0]  # fmt: skip

    whole, before, after = Losses(), Losses(last=5), Losses()
    once = run("whole", whole)
    with pytest.raises(InterruptedError):
        run("run", before)
    resumed = run("run", after, resume=True)
    assert (len(whole.seen), len(before.seen), len(after.seen)) == (6, 5, 2)
    assert before.seen[:4] + after.seen == whole.seen
    assert all({"loss", "distillation", "labels"} <= one.keys() for one in whole.seen)
    for one, other in zip(jax.tree.leaves(nnx.state(once)), jax.tree.leaves(nnx.state(resumed)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_classifier_learns_from_a_good_teacher_what_the_labels_do_not_say(
    pictures: LabelledImages, tmp_path: Path
) -> None:
    good, _, _ = train_classifier(
        classifier(), pictures, replace(HOW, loop=replace(LESSON, steps=120)), checkpoints=tmp_path / "good"
    )
    package = packed(tmp_path / "teacher", good, replace(LABELS, temperature=good.temperature), labels=CLASSES)
    teacher = label_teacher(Distillation(package, 0.9, 2.0), CLASSES)
    shuffled = replace(pictures, labels=np.random.default_rng(0).permutation(pictures.labels))
    # One score alone: the last weights are kept, whatever the shuffled labels say of them.
    how = replace(HOW, loop=replace(LESSON, steps=60, checkpoint_every=60))

    def accuracy(network: Classifier) -> float:
        return float(np.mean(embedder(network)(pictures.images).argmax(axis=1) == pictures.labels))

    untaught, pupil = (
        accuracy(
            train_classifier(classifier(7), shuffled, how, checkpoints=tmp_path / f"{one is None}", teacher=one)[0]
        )
        for one in (None, teacher)
    )
    assert accuracy(good) > 0.9
    assert pupil > untaught + 0.2


def test_an_embedding_learns_from_a_good_teacher_what_the_labels_do_not_say(
    write_drawings: Callable[..., None], tmp_path: Path
) -> None:
    write_drawings(tmp_path / "set.zip", groups=1, classes=30, pictures=8)
    pictures = read_class_folders(tmp_path / "set.zip", preprocessing=SIZE)
    how = replace(ALIKE, classes=12)
    good, parts, _ = siamese.train_siamese(
        embedding(), pictures, replace(how, loop=replace(LESSON, steps=150)), checkpoints=tmp_path / "good"
    )
    teacher = embedding_teacher(Distillation(packed(tmp_path / "teacher", good, VECTORS), 1.0, 0.1))
    config = replace(VECTORS, dimension=8)
    shuffled = replace(pictures, labels=np.random.default_rng(0).permutation(pictures.labels))

    def found(network: SiameseNetwork) -> float:
        rows = np.concatenate([parts.validation, parts.test])
        return retrieval_scores(embedder(network)(pictures.images[rows]), pictures.labels[rows]).map_at_r

    untaught, pupil = (
        found(
            siamese.train_siamese(
                drawn(partial(SiameseNetwork, config=config), seed=7),
                shuffled,
                replace(how, network=config),
                checkpoints=tmp_path / f"{one is None}",
                teacher=one,
            )[0]
        )
        for one in (None, teacher)
    )
    assert pupil > untaught + 0.1
