"""The recipe of the shipped model `base`, as one command.

    python -m twinsight_core.training.base --data DIR --out DIR [--resume]

1. Three sets of labelled pictures are read; whole classes of each are held out for validation and for the scores.
2. The teacher, MobileNetV1 0.75 as Keras Applications ships it, gives its features at 128 and at 224 px; the principal
   components of their mean on the training classes are the targets and the first head.
3. The student starts as the teacher and sees augmented views at 160 px. It learns to place each view where the teacher
   places the untouched picture among all training pictures (distillation), and pictures of a class together
   (supervised contrastive). Early blocks and all batch-norm statistics stay as they are. It is measured and served at
   192 px, where whole pictures show things as large as the crops did.
4. Validation classes choose how far the weights go from the teacher's to the trained ones.
5. The held-out classes give the scores and, through edited copies, the calibration; the package is written.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from twinsight_core.calibration import Calibration, ScoredPairs
from twinsight_core.evaluation.fitting import fit_calibration
from twinsight_core.evaluation.retrieval import retrieval_scores
from twinsight_core.images import Preprocessing
from twinsight_core.losses import similarity_distillation, supervised_contrastive
from twinsight_core.models.configs.mobilenet import MobileNetConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.float32 import in_float32
from twinsight_core.models.layers import l2_normalise
from twinsight_core.models.mobilenet import MobileNetV1
from twinsight_core.models.siamese import SiameseNetwork
from twinsight_core.packages import ModelCard, ModelPackage, find_package, save_package
from twinsight_core.training.augment import Augmentation, views
from twinsight_core.training.evaluate import Embed, embedder, in_batches
from twinsight_core.training.loop import LoopConfig, Loss, train
from twinsight_core.training.measure import (
    Gallery,
    Part,
    copy_pairs,
    copy_scores,
    embed_copies,
    gallery,
    validation_score,
)
from twinsight_core.training.progress import LogProgress
from twinsight_core.training.recipe import (
    Batch,
    LoadedSet,
    Recipe,
    SetConfig,
    TrainingSet,
    load_sets,
    load_teacher,
)
from twinsight_core.training.student import first_student
from twinsight_core.training.trainable import Arrays, Trainable, is_trained

# By name, since the module runs as `__main__`.
_LOG = logging.getLogger("twinsight_core.training.base")

BASE = Recipe(
    sets=(
        SetConfig(name="caltech", file="caltech_50.zip", validation=5, test=10, classes=5),
        SetConfig(name="clothing", file="clothing_train.zip", validation=2, test=3, classes=3),
        SetConfig(name="tiny_imagenet", file="tiny_imagenet_100.zip", validation=10, test=20, classes=8),
    ),
    teacher="weights/mobilenet_v1_075_224.safetensors",
    teacher_network=MobileNetConfig(width_multiplier=0.75),
    teacher_px=(128, 224),
    reference_px=224,
    size_px=160,
    served_px=192,
    network=SiameseConfig(backbone=MobileNetConfig(width_multiplier=0.75), dimension=256),
    frozen_blocks=9,
    pictures=4,
    distillation=1.0,
    distillation_temperature=0.1,
    contrastive=0.3,
    contrastive_temperature=0.1,
    augmentation=Augmentation(),
    loop=LoopConfig(steps=500, learning_rate=8e-5),
)


SHARES = (0.25, 0.5, 0.75, 1.0)
"""How far the weights may go from the first to the trained ones."""

MEASURED_PICTURES = 120
"""Pictures of each set that copies are made of, every edit of each."""

FALSE_MATCH_RATE = 0.02
"""Of the operating point; half of the different pairs are of one class and hard, hardly any of the others pass."""

MEANING = "The two pictures are the same picture, one perhaps an edited copy of the other."
LICENCE = "Apache-2.0"
TRAINING_DATA = (
    "The first weights and the teacher are MobileNetV1 0.75 at 224 px of Keras Applications (Apache-2.0), which its "
    "authors trained on the 1,000 classes of ImageNet (ILSVRC 2012). Trained further on classes of Caltech-101 (35 "
    "classes, CC BY 4.0, Caltech), of a product-photo set of clothes (5 classes, CC0) and of Tiny-ImageNet (70 "
    "classes, ImageNet's terms, research). Other classes of each set were held out for the scores; the first weights "
    "had seen all of ImageNet's classes, Tiny-ImageNet's held-out ones among them."
)
DESCRIPTION = (
    "General similarity of photographs: near-duplicates, edited copies, pictures of the same kind of thing, also of "
    "kinds it was not trained on. The probability is of one picture being a copy of the other, not of showing the same "
    "kind of thing, and at even odds. Half of the different pairs that it was measured on are of one kind of thing. "
    "Weak on text, documents, faces, fine differences between like things, crops of small details, quarter turns, "
    "turns by more than some degrees, negatives, and screenshots with broad borders."
)


def trained_student(recipe: Recipe, network: SiameseNetwork) -> Trainable[SiameseNetwork]:
    """Returns the network with those weights trained that the recipe says."""
    return Trainable(network, trained=partial(is_trained, frozen_blocks=recipe.frozen_blocks))


def student_loss(recipe: Recipe, student: Trainable[SiameseNetwork], targets: np.ndarray) -> Loss[Batch]:
    """Returns the loss of a step.

    Args:
        recipe: the weights and temperatures of its parts.
        student: makes the network of the trained weights.
        targets: [count, dimension] float32, where the teacher places each training picture, unit vectors.
    """
    bank = jnp.asarray(targets)

    def loss(params: Arrays, stats: Arrays, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Arrays, Arrays]]:
        seen = views(key, jnp.asarray(batch.images), how=recipe.augmentation)
        embeddings = student.network(params, stats)(seen)
        distilled = similarity_distillation(
            student=embeddings,
            teacher=bank[batch.rows],
            student_bank=bank,
            teacher_bank=bank,
            temperature=recipe.distillation_temperature,
        )
        grouped = supervised_contrastive(
            embeddings=embeddings, labels=jnp.asarray(batch.labels), temperature=recipe.contrastive_temperature
        )
        parts = {"distillation": jnp.mean(distilled), "contrastive": jnp.mean(grouped)}
        whole = recipe.distillation * parts["distillation"] + recipe.contrastive * parts["contrastive"]
        return whole, (stats, parts)

    return loss


def choose_share(first: Arrays, trained: Arrays, score: Callable[[Arrays], float]) -> Arrays:
    """Returns the weights between the first and the trained ones that score best.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022: on what training did not see, weights
    on the straight line between the two do better than either end.

    Args:
        first: the first weights.
        trained: the trained weights.
        score: higher is better; on validation classes alone.
    """
    best, chosen = -np.inf, trained
    for share in SHARES:
        params = {name: value + share * (trained[name] - value) for name, value in first.items()}
        scored = score(params)
        _LOG.info("share %.2f of the way: validation %.4f", share, scored)
        if scored > best:
            best, chosen = scored, params
    return chosen


def teacher_embedder(backbone: MobileNetV1) -> Embed:
    """Returns the teacher's features at length 1 as an embedding."""
    graph, state = nnx.split(backbone)
    run = jax.jit(
        in_float32(lambda state, images: l2_normalise(jnp.mean(nnx.merge(graph, state)(images), axis=(1, 2))))
    )
    return lambda images: in_batches(lambda part: run(state, part), images)


def package(
    recipe: Recipe, sets: Sequence[LoadedSet], backbone: MobileNetV1, network: SiameseNetwork, folder: Path
) -> ModelPackage:
    """Scores and calibrates a network and writes its package.

    Args:
        recipe: the numbers.
        sets: the pictures.
        backbone: the teacher's.
        network: the trained one, in evaluation mode.
        folder: where the package goes.
    """
    embed = embedder(network)
    test = served_gallery(recipe, sets, lambda one: one.split.test, embed)
    copies = embed_copies(sets, test, embed, each=MEASURED_PICTURES, preprocessing=recipe.served, seed=1)
    scores = _scores(sets, test, copy_scores(copies, test), "")
    teacher = gallery(sets, lambda one: one.split.test, lambda one, rows: one.teacher[recipe.reference_px][rows])
    teacher_copies = embed_copies(
        sets,
        teacher,
        teacher_embedder(backbone),
        each=MEASURED_PICTURES,
        preprocessing=Preprocessing(height_px=recipe.reference_px, width_px=recipe.reference_px),
        seed=1,
    )
    scores |= _scores(sets, teacher, copy_scores(teacher_copies, teacher), "_teacher")
    card = ModelCard(
        architecture="siamese",
        config=recipe.network,
        task="embedding",
        preprocessing=recipe.served,
        dimension=recipe.network.dimension,
        licence=LICENCE,
        training_data=TRAINING_DATA,
        description=DESCRIPTION,
        calibration=calibrated(recipe, sets, embed),
        scores={name: round(value, 4) for name, value in sorted(scores.items())},
        recipe="python -m twinsight_core.training.base --data DIR --out DIR",
    )
    return save_package(folder, card, network)


def served_gallery(recipe: Recipe, sets: Sequence[LoadedSet], part: Part, embed: Embed) -> Gallery:
    """Returns the pictures of a part of every set, embedded at the size that is served."""
    return gallery(sets, part, lambda one, rows: embed(one.decoded(rows, recipe.served)))


def calibrated(recipe: Recipe, sets: Sequence[LoadedSet], embed: Embed) -> Calibration:
    """Returns the calibration of cosines for edited copies: fitted on the validation classes, measured on the test's.

    Args:
        recipe: the size of the input.
        sets: the pictures.
        embed: the embedding.
    """
    return fit_calibration(
        fit=_pairs_of_copies(recipe, sets, embed, lambda one: one.split.validation, seed=2),
        measure=held_out_copies(recipe, sets, embed),
        meaning=MEANING,
        false_match_rate=FALSE_MATCH_RATE,
    )


def held_out_copies(recipe: Recipe, sets: Sequence[LoadedSet], embed: Embed) -> ScoredPairs:
    """Returns pairs of pictures of the test's classes and edited copies, and of different pictures, as they are served.

    Args:
        recipe: the size of the input.
        sets: the pictures.
        embed: the embedding.
    """
    return _pairs_of_copies(recipe, sets, embed, lambda one: one.split.test, seed=1)


def _pairs_of_copies(
    recipe: Recipe, sets: Sequence[LoadedSet], embed: Embed, classes: Part, *, seed: int
) -> ScoredPairs:
    among = served_gallery(recipe, sets, classes, embed)
    copies = embed_copies(sets, among, embed, each=MEASURED_PICTURES, preprocessing=recipe.served, seed=seed)
    return copy_pairs(copies, among, seed=seed + 2)


def calibrate_package(recipe: Recipe, package: ModelPackage, *, data: Path, out: Path) -> ModelPackage:
    """Recalibrates a package of the recipe for pictures as they are decoded now; weights and scores stay.

    Args:
        recipe: says what is held out.
        package: made by the recipe.
        data: folder with the picture sets.
        out: folder for the package (`base`) and the caches.
    """
    sets = load_sets(recipe, data, out / "cache", None)
    network = package.build()
    calibration = calibrated(recipe, sets, embedder(network))
    card = replace(package.card, preprocessing=recipe.served, calibration=calibration)
    return save_package(out / "base", card, network)


def _scores(sets: Sequence[LoadedSet], among: Gallery, copies: dict[str, float], suffix: str) -> dict[str, float]:
    scores = {f"copies_heldout_recall_at_1_{kind}{suffix}": value for kind, value in copies.items()}
    for number, one in enumerate(sets):
        rows = among.sets == number
        score = retrieval_scores(among.embeddings[rows], among.labels[rows])
        scores[f"{one.config.name}_heldout_recall_at_1{suffix}"] = score.recall_at_k[1]
        scores[f"{one.config.name}_heldout_map_at_r{suffix}"] = score.map_at_r
    return scores


def train_package(recipe: Recipe, *, data: Path, out: Path, resume: bool = False) -> ModelPackage:
    """Follows the recipe from the data to the package.

    Args:
        recipe: the numbers.
        data: folder with the picture sets and the teacher.
        out: folder for the package (`base`), the checkpoint and the caches.
        resume: continue from the last checkpoint in `out`.
    """
    backbone = load_teacher(recipe, data)
    sets = load_sets(recipe, data, out / "cache", backbone)
    training = TrainingSet(recipe, sets)
    student = trained_student(recipe, first_student(recipe.network, backbone, training.projection))

    @jax.jit
    @in_float32
    def run(params: Arrays, images: jax.Array) -> jax.Array:
        return student.evaluated(params)(images)

    def validate(params: Arrays) -> float:
        scores = validation_score(partial(in_batches, partial(run, params)), sets, preprocessing=recipe.served)
        return float(np.mean(list(scores.values())))

    trained = train(
        student.params,
        student.stats,
        loss=student_loss(recipe, student, training.targets),
        batch=training.batch,
        config=recipe.loop,
        checkpoints=out / "checkpoints",
        resume=resume,
        watchers=(LogProgress(),),
    )
    network = student.evaluated(choose_share(student.params, trained.params, validate))
    return package(recipe, sets, backbone, network, out / "base")


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains `base` and writes its package to the output folder."""
    parser = argparse.ArgumentParser(description="Trains the model `base` and writes its package to OUT/base.")
    parser.add_argument("--data", type=Path, required=True, help="folder with the picture sets and weights/")
    parser.add_argument("--out", type=Path, required=True, help="folder for the package, the checkpoint and caches")
    parser.add_argument("--steps", type=int, default=BASE.loop.steps, help="updates of the weights [%(default)s]")
    parser.add_argument("--calibrate", action="store_true", help="only recalibrate the shipped package")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUT")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("twinsight_core").setLevel(logging.INFO)
    recipe = replace(BASE, loop=replace(BASE.loop, steps=chosen.steps))
    if chosen.calibrate:
        written = calibrate_package(recipe, find_package("base"), data=chosen.data, out=chosen.out)
    else:
        written = train_package(recipe, data=chosen.data, out=chosen.out, resume=chosen.resume)
    _LOG.info("wrote %s, %s", written.folder, written.digest)
    for name, value in written.card.scores.items():
        _LOG.info("%-50s %.4f", name, value)
    _LOG.info("%s", written.card.calibration)


if __name__ == "__main__":
    main()
