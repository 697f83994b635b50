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

from benchmarks import held_out, report
from benchmarks.environment import environment
from benchmarks.faces import scores as fold_scores
from benchmarks.measure import interleaved_ms, summary
from benchmarks.serving import served_executor
from twinsight_core.engine import Engine
from twinsight_core.evaluation.fitting import calibration_error
from twinsight_core.evaluation.retrieval import retrieval_scores
from twinsight_core.importing.package import Importable, import_package
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.mobilefacenet import MobileFaceNet
from twinsight_core.packages import ModelPackage, find_package
from twinsight_core.training.base import BASE, held_out_copies, served_gallery
from twinsight_core.training.evaluate import embedder
from twinsight_core.training.measure import gallery
from twinsight_core.training.recipe import LoadedSet, load_sets, load_teacher

RESULTS = Path(__file__).parent / "results"
CALLS = 100


def base(data: Path, cache: Path) -> dict[str, float]:
    """Returns retrieval on classes held out, beside MobileNetV1's own features at 224 px, and both times."""
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
    if package.card.calibration is not None:
        held_out = held_out_copies(BASE, sets, embed)
        scores["copies_expected_calibration_error"] = calibration_error(package.card.calibration, held_out)
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
    pictures = held_out.glyph(data, cache)
    return pictures.scores(embedder(find_package("glyph").build())(pictures.images))


def cells(data: Path, cache: Path) -> dict[str, float]:
    """Returns the average precision on the official validation list."""
    pictures = held_out.cells(data, cache)
    return pictures.scores(embedder(find_package("cells").build(), batch=8)(pictures.images))


def garments(data: Path, cache: Path) -> dict[str, float]:
    """Returns the accuracy on a fifth of each class's pictures."""
    pictures = held_out.garments(data, cache)
    scores = pictures.scores(embedder(find_package("garments").build())(pictures.images))
    return scores | {"pictures": len(pictures.images)}


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
