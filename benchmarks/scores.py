"""What the shipped models are worth on data held out from their training, measured as they ship.

`python -m benchmarks.scores --data DIR` writes `benchmarks/results/scores.json` and renews the README's table. The
splits are those of the recipes: whole classes for `base`, whole alphabets for `glyph`, the official validation list
for `cells`, a fifth of each class for `garments`, one fold's identities for `faces` (which does not ship). Nothing is
chosen by what is measured here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from benchmarks import report
from benchmarks.environment import environment
from benchmarks.faces import scores as fold_scores
from benchmarks.measure import interleaved_ms, summary
from benchmarks.serving import served_executor
from twinsight_core.engine import Engine
from twinsight_core.evaluation.retrieval import retrieval_scores
from twinsight_core.images import Preprocessing
from twinsight_core.importing.package import Importable, import_package
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.configs.siamese import SiameseConfig
from twinsight_core.models.mobilefacenet import MobileFaceNet
from twinsight_core.packages import ModelPackage, find_package
from twinsight_core.training.base import BASE, calibrated, served_gallery
from twinsight_core.training.boxes import read_voc
from twinsight_core.training.classifier import ClassifierTraining
from twinsight_core.training.classifier import split as split_pictures
from twinsight_core.training.data import LabelledImages, read_class_folders
from twinsight_core.training.evaluate import embedder
from twinsight_core.training.findings import classification_findings, detection_findings, embedding_findings
from twinsight_core.training.measure import gallery
from twinsight_core.training.recipe import LoadedSet, load_sets, load_teacher
from twinsight_core.training.siamese import SiameseTraining
from twinsight_core.training.siamese import split as split_classes

RESULTS = Path(__file__).parent / "results"
CALLS = 100
HELD_OUT = 0.1
WHICH = "held out from training"


def base(data: Path, cache: Path) -> dict[str, float]:
    """Returns retrieval on classes never trained on, beside MobileNetV1's own features at 224 px, and both times."""
    package = find_package("base")
    teacher = load_teacher(BASE, data)
    sets = load_sets(BASE, data, cache, teacher)
    embed = embedder(package.build())

    def of_teacher(one: LoadedSet, rows: np.ndarray) -> np.ndarray:
        features: np.ndarray = one.teacher[BASE.reference_px][rows]
        return features

    ours = served_gallery(BASE, sets, lambda one: one.split.test, embed)
    theirs = gallery(sets, lambda one: one.split.test, of_teacher)
    scores: dict[str, float] = {}
    for number, one in enumerate(sets):
        for suffix, among in (("", ours), ("_mobilenet", theirs)):
            rows = among.sets == number
            score = retrieval_scores(among.embeddings[rows], among.labels[rows])
            scores[f"{one.config.name}_recall_at_1{suffix}"] = score.recall_at_k[1]
            scores[f"{one.config.name}_map_at_r{suffix}"] = score.map_at_r
    calibration = calibrated(BASE, sets, embed)
    scores["copies_expected_calibration_error"] = calibration.expected_calibration_error
    with tempfile.TemporaryDirectory() as folder:
        imported = import_package(
            architecture="mobilenet_v1", weights=data / BASE.teacher, out=Path(folder) / "mobilenet"
        )
        times = interleaved_ms({"base": _lone(package), "mobilenet": _lone(imported)}, count=CALLS)
    return scores | {f"{name}_ms": summary(one)["p50"] for name, one in times.items()}


def _lone(package: ModelPackage) -> partial[np.ndarray]:
    """One picture through a model as it is served."""
    size = package.card.preprocessing
    engine = Engine(served_executor(package), size, answer_shape=package.card.config.answer_shape, buckets=(1,))
    engine.warm_up()
    return partial(engine.infer_alone, np.zeros((size.height_px, size.width_px, 3), np.uint8))


def glyph(data: Path, cache: Path) -> dict[str, float]:
    """Returns one-shot recognition and verification on alphabets never trained on."""
    package = find_package("glyph")
    pictures = _pictures(data / "omniglot_background.zip", package.card.preprocessing, cache)
    config = package.card.config
    if not isinstance(config, SiameseConfig):
        raise TypeError("`glyph` is a Siamese network.")
    how = SiameseTraining(
        network=config, preprocessing=package.card.preprocessing, groups=2, validation=HELD_OUT, test=HELD_OUT
    )
    rows = split_classes(pictures, how).test
    labels = pictures.labels[rows]
    embeddings = embedder(package.build())(pictures.images[rows])
    found = embedding_findings(
        embeddings, labels, pictures.groups()[labels], pictures.images[rows], pictures.classes, which=WHICH
    )
    return found.scores


def cells(data: Path, cache: Path) -> dict[str, float]:
    """Returns the average precision on the official validation list."""
    del cache
    package = find_package("cells")
    read = read_voc(
        data / "bccd_trainval.zip",
        preprocessing=package.card.preprocessing,
        image_set="val",
        classes=package.card.labels,
        skip_bad=True,
    )
    answers = embedder(package.build(), batch=8)(read.images)
    return detection_findings(answers, read, which=WHICH).scores


def garments(data: Path, cache: Path) -> dict[str, float]:
    """Returns the accuracy on a fifth of each class's pictures."""
    package = find_package("garments")
    pictures = _pictures(data / "clothing_train.zip", package.card.preprocessing, cache)
    config = package.card.config
    if not isinstance(config, ClassifierConfig):
        raise TypeError("`garments` is a classifier.")
    rows = split_pictures(pictures, ClassifierTraining(network=config, preprocessing=package.card.preprocessing)).test
    images, labels = pictures.images[rows], pictures.labels[rows]
    found = classification_findings(embedder(package.build())(images), labels, images, pictures.classes, which=WHICH)
    return found.scores | {"pictures": len(rows)}


def faces(data: Path, cache: Path) -> dict[str, float]:
    """Returns verification of faces of a fold that training did not see; trains first where that was not done."""
    return fold_scores(data, cache.parent)


def imported(data: Path, cache: Path) -> dict[str, float]:
    """Returns how far imported networks are from the answers that come with their weights, in float32.

    A checkpoint of PyTorch is read where the extra `torch` is installed, and left out elsewhere.
    """
    del cache
    architectures: dict[Importable, tuple[str, str]] = {
        "mobilenet_v1": ("mobilenet_v1_075_224.safetensors", "mobilenet_v1_075_reference.npz")
    }
    if find_spec("torch"):
        architectures["mobilefacenet"] = ("mobilefacenet_casia.ckpt", "mobilefacenet_reference.npz")
    errors = {}
    for architecture, (weights, reference) in architectures.items():
        with tempfile.TemporaryDirectory() as folder, np.load(data / "weights" / reference) as expected:
            network = import_package(
                architecture=architecture, weights=data / "weights" / weights, out=Path(folder) / architecture
            ).build()
            if isinstance(network, Classifier):
                answers = {"logits": network.logits, "features": network.features}
            elif isinstance(network, MobileFaceNet):
                answers = {"embeddings": network.features}
            else:
                raise TypeError(f"`{architecture}` has no reference.")
            for name, answer in answers.items():
                found = np.asarray(answer(jnp.asarray(expected["images"])))
                error = np.linalg.norm(found - expected[name]) / np.linalg.norm(expected[name])
                errors[f"{architecture}_{name}_relative_error"] = float(error)
    return errors


def _pictures(path: Path, size: Preprocessing, cache: Path) -> LabelledImages:
    return read_class_folders(path, preprocessing=size, cache_dir=cache)


MEASURES = {one.__name__: one for one in (base, glyph, cells, garments, faces, imported)}


def main() -> None:
    """Measures all shipped models."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the picture sets and weights/")
    parser.add_argument("--only", nargs="+", choices=MEASURES, help="measure these; the others stay as they were")
    parser.add_argument("--cache", type=Path, default=Path("training/cache"), help="decoded pictures [%(default)s]")
    chosen = parser.parse_args()
    kept = RESULTS / "scores.json"
    result: dict[str, object] = json.loads(kept.read_text("utf-8")) if chosen.only else {}
    now = environment()
    before = result.get("environments", {})
    environments = dict(before) if isinstance(before, dict) else {}
    for name in chosen.only or MEASURES:
        print(f"{name} ...", flush=True)
        scores = MEASURES[name](chosen.data, chosen.cache)
        # Errors in the seventh place are kept as they are.
        result[name] = {score: float(f"{value:.4g}") for score, value in scores.items()}
        environments[name] = now
        print(json.dumps(result[name], indent=2))
    RESULTS.mkdir(exist_ok=True)
    kept.write_text(json.dumps(result | {"environments": environments}, indent=2) + "\n", "utf-8")
    report.write(report.Places(RESULTS))


if __name__ == "__main__":
    main()
