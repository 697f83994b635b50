"""What each backbone is worth for its time: accuracy after the same short training, and time a picture as served.

    python -m benchmarks.backbones --data DIR [--steps 300] [--size 64] [--quick]

1. Each of `twinsight train`'s backbones becomes a classifier of clothes: from scratch, with the same batches, views and
   number of steps. A fifth of each class's pictures is held out for the accuracy.
2. All are served by what a server would choose here, and compute in turns: one picture, and batches of eight.

Few steps from scratch say which network learns photographs quickly, not how far it gets. The default takes about 15
minutes on two cores. `benchmarks/results/backbones.json` and the table of docs/performance.md are written.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from benchmarks import report
from benchmarks.environment import environment
from benchmarks.extent import QUICK_RESULTS
from benchmarks.measure import interleaved_ms, summary
from benchmarks.serving import served_executor
from twinsight_core.evaluation.intervals import wilson_interval
from twinsight_core.executors.base import Executor
from twinsight_core.images import Preprocessing
from twinsight_core.models.classifier import Classifier
from twinsight_core.models.configs.backbones import BackboneConfig
from twinsight_core.models.configs.classifier import ClassifierConfig
from twinsight_core.models.first_weights import drawn
from twinsight_core.packages import ModelCard, save_package
from twinsight_core.training.classifier import ClassifierTraining, train_classifier
from twinsight_core.training.data import LabelledImages, read_class_folders
from twinsight_core.training.evaluate import embedder
from twinsight_core.training.loop import LoopConfig
from twinsight_core.training.progress import LogProgress
from twinsight_core.training.runs import BACKBONES

RESULTS = Path(__file__).parent / "results"
PICTURES = "clothing_train.zip"
LEARNING_RATE = 1e-3
BATCH = 32
BATCHES = (1, 8)
"""Pictures at once, as served."""
CALLS = 100


@dataclass(frozen=True)
class Budget:
    """What each backbone gets.

    Attributes:
        steps: of training.
        size_px: side of the input, a multiple of 8.
        calls: that are timed, of each batch.
    """

    steps: int
    size_px: int
    calls: int

    @property
    def loop(self) -> LoopConfig:
        """The training, scored three times."""
        return LoopConfig(
            steps=self.steps,
            learning_rate=LEARNING_RATE,
            warmup_steps=max(1, self.steps // 20),
            average=1 - 10 / max(self.steps, 20),
            checkpoint_every=max(1, self.steps // 3),
        )


@dataclass(frozen=True)
class Candidate:
    """A backbone that was trained.

    Attributes:
        figures: what training it gave.
        executor: computes it as a server would.
    """

    figures: dict[str, float]
    executor: Executor


def trained(backbone: BackboneConfig, pictures: LabelledImages, budget: Budget, folder: Path) -> Candidate:
    """Trains a backbone, and returns it as it is served.

    Args:
        backbone: the network below the classes.
        pictures: at the budget's size.
        budget: how much training it gets.
        folder: for its checkpoints and its package.
    """
    size = Preprocessing(height_px=budget.size_px, width_px=budget.size_px)
    config = ClassifierConfig(backbone=backbone, classes=len(pictures.classes))
    network = drawn(partial(Classifier, config=config), seed=0)
    how = ClassifierTraining(network=config, preprocessing=size, batch=BATCH, loop=budget.loop)
    begun = time.perf_counter()
    network, parts, _ = train_classifier(
        network, pictures, how, checkpoints=folder / "checkpoints", watchers=(LogProgress(),)
    )
    seconds = time.perf_counter() - begun
    labels = pictures.labels[parts.test]
    right = int((embedder(network)(pictures.images[parts.test]).argmax(axis=1) == labels).sum())
    low, high = wilson_interval(right, len(labels))
    card = ModelCard(
        architecture="classifier",
        config=config,
        task=config.TASK,
        preprocessing=size,
        dimension=0,
        labels=pictures.classes,
        licence="not stated",
        training_data=PICTURES,
        description="A backbone that is measured.",
    )
    package = save_package(folder / "package", card, network)
    figures = {
        "parameters": float(sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))),
        "train_s": round(seconds, 1),
        "top1": round(right / len(labels), 4),
        "top1_low": round(low, 4),
        "top1_high": round(high, 4),
    }
    return Candidate(figures, served_executor(package))


def timed(executors: Mapping[str, Executor], budget: Budget) -> dict[str, dict[str, float]]:
    """Returns the median time of a picture by the executors' names, in each of `BATCHES`."""
    found: dict[str, dict[str, float]] = {name: {} for name in executors}
    for batch in BATCHES:
        pixels = np.random.default_rng(0).integers(0, 256, (batch, budget.size_px, budget.size_px, 3), np.uint8)
        for executor in executors.values():
            executor.prepare(batch)
        works = {name: partial(executor.compute, pixels) for name, executor in executors.items()}
        for name, times in interleaved_ms(works, count=budget.calls).items():
            found[name][f"batch_{batch}_ms"] = round(summary(times)["p50"] / batch, 4)
    return found


def measure(data: Path, budget: Budget) -> dict[str, object]:
    """Returns the figures of all backbones."""
    size = Preprocessing(height_px=budget.size_px, width_px=budget.size_px)
    with tempfile.TemporaryDirectory() as work:
        pictures = read_class_folders(data / PICTURES, preprocessing=size)
        candidates = {}
        for name, backbone in BACKBONES.items():
            print(f"{name} ...", flush=True)
            candidates[name] = trained(backbone, pictures, budget, Path(work) / name)
        times = timed({name: one.executor for name, one in candidates.items()}, budget)
    figures = {name: one.figures | times[name] for name, one in candidates.items()}
    for one in figures.values():
        one["top1_per_ms"] = round(one["top1"] / one["batch_1_ms"], 4)
    return {
        "what": f"Classifiers of {len(pictures.classes)} kinds of clothes, {budget.steps} steps from scratch, each of "
        f"{BATCH} pictures of {budget.size_px} px",
        "executors": {name: one.executor.name for name, one in candidates.items()},
        "backbones": figures,
    }


def main() -> None:
    """Trains and times every backbone."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {PICTURES}")
    parser.add_argument("--steps", type=int, default=300, help="of training, each backbone [%(default)s]")
    parser.add_argument("--size", type=int, default=64, help="side of the input, a multiple of 8 [%(default)s]")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"train and measure little, to see that it works; results go to {QUICK_RESULTS}, no document is changed",
    )
    chosen = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("twinsight_core").setLevel(logging.INFO)
    budget = Budget(3, 32, 5) if chosen.quick else Budget(chosen.steps, chosen.size, CALLS)
    places = report.Places(QUICK_RESULTS, None, None, QUICK_RESULTS) if chosen.quick else report.Places(RESULTS)
    result = {"environment": environment(), **measure(chosen.data, budget)}
    places.results.mkdir(exist_ok=True)
    (places.results / "backbones.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(report.backbones(places.results))
    report.write(places)


if __name__ == "__main__":
    main()
