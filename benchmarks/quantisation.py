"""What int8 would bring on this CPU: the processor's time for a picture, and what is lost on held-out data.

    python -m benchmarks.quantisation --data DIR [--only base] [--quick]

It needs NNCF, OpenVINO's own library for this: `pip install -r benchmarks/requirements-quantisation.txt`.

1. A shipped model is exported as a server exports it. NNCF quantises it from pictures of its training classes: static,
   with weights by channel, and biases that make up for the mean error of each layer.
2. Convolutions over all channels alone become int8. Depthwise ones have no int8 kernel worth its conversions, and what
   comes after the map (the head, the length of a vector, boxes) is float wherever twinsight computes.
3. Both forms answer the held-out pictures of `python -m benchmarks.scores`, and compute one picture in turns, on one
   core as a server's lanes do. What counts is the processor's time: work beside it lengthens it little.

`benchmarks/results/quantisation.json` and the table of docs/performance.md are written. With `--only`, the figures of
the other models stay as they were.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from benchmarks import held_out, report
from benchmarks.environment import environment
from benchmarks.extent import QUICK_RESULTS
from benchmarks.held_out import Amount, HeldOut
from benchmarks.measure import interleaved_ms, summary
from twinsight_core.executors.openvino import load_openvino, supported_precisions
from twinsight_core.exporting import INPUT
from twinsight_core.exporting.onnx import to_onnx
from twinsight_core.packages import ModelPackage, find_package
from twinsight_core.training.evaluate import in_batches

RESULTS = Path(__file__).parent / "results"
INSTALL = "pip install -r benchmarks/requirements-quantisation.txt"
QUANTISED = "Convolution"
"""OpenVINO's type of a convolution over all channels; a depthwise one is a GroupConvolution."""
NO_OPERATIONS = {"Constant", "Parameter", "Result"}


@dataclass(frozen=True)
class Measured:
    """A shipped model's part.

    Attributes:
        pictures: reads them.
        scores: those that count, of all that are computed; higher is better.
        batch: pictures at once when all are answered.
    """

    pictures: Callable[[Path, Path, Amount], HeldOut]
    scores: tuple[str, ...]
    batch: int = 4


MODELS = {
    "base": Measured(
        held_out.base,
        tuple(
            f"{name}_{score}"
            for name in ("caltech", "clothing", "tiny_imagenet")
            for score in ("recall_at_1", "map_at_r")
        ),
    ),
    "glyph": Measured(
        held_out.glyph,
        ("one_shot_20_way_within_alphabet", "one_shot_20_way_unstructured", "verification_accuracy"),
    ),
    "garments": Measured(held_out.garments, ("top1_accuracy", "balanced_accuracy")),
    "cells": Measured(held_out.cells, ("ap_50", "ap"), batch=1),
}


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes:
        pictures: how many a model is fitted to and measured on.
        calls: that are timed, of each form.
    """

    pictures: Amount
    calls: int


FULL = Budget(Amount(training=300), calls=100)
QUICK = Budget(Amount(training=6, held_out=120), calls=5)


class _Model(Protocol):
    """A network of OpenVINO, as far as it is used here."""

    def clone(self) -> _Model: ...

    def reshape(self, shapes: Mapping[str, list[int]]) -> None: ...


class Forms:
    """A model in float and in int8, as OpenVINO computes them.

    Args:
        package: the model.
        training: [count, height, width, 3] uint8, RGB, 0..255; what int8's ranges are taken from.
    """

    def __init__(self, package: ModelPackage, training: np.ndarray) -> None:
        nncf = load_nncf()
        self._size = package.card.preprocessing
        self._core = importlib.import_module("openvino").Core()
        onnx = to_onnx(package.build(), self._size, batch=None)
        exact, plain = self._core.read_model(onnx), self._core.read_model(onnx)
        others = {operation.get_type_name() for operation in plain.get_ops()} - {QUANTISED} - NO_OPERATIONS
        quantised = nncf.quantize(
            plain,
            nncf.Dataset([picture[None] for picture in training]),
            subset_size=len(training),
            ignored_scope=nncf.IgnoredScope(types=sorted(others), validate=False),
        )
        self._models: dict[str, _Model] = {"float": exact, "int8": quantised}

    def runs(self, *, batch: int, threads: int | None = None) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
        """Returns what computes a batch of so many pictures, by the form's name.

        Args:
            batch: pictures at once.
            threads: cores that a batch is computed on; None: all.
        """
        return {name: self._run(model, batch, threads) for name, model in self._models.items()}

    def _run(self, model: _Model, batch: int, threads: int | None) -> Callable[[np.ndarray], np.ndarray]:
        fixed = model.clone()
        fixed.reshape({INPUT: [batch, self._size.height_px, self._size.width_px, 3]})
        options = {"INFERENCE_PRECISION_HINT": supported_precisions()[0], "NUM_STREAMS": "1"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = str(threads)
        request = self._core.compile_model(fixed, "CPU", options).create_infer_request()
        return lambda images: np.array(request.infer(images)[0], np.float32)


def load_nncf() -> ModuleType:
    """Returns NNCF; by name, since twinsight itself does not need it.

    Raises:
        SystemExit: it is not installed.
    """
    load_openvino()  # first: it keeps OpenVINO from telling its maker
    try:
        nncf = importlib.import_module("nncf")
    except ModuleNotFoundError as error:
        raise SystemExit(f"This needs the module `{error.name}`, which is not installed: {INSTALL}") from error
    nncf.set_log_level(logging.WARNING)
    return nncf


def measure(name: str, data: Path, cache: Path, budget: Budget) -> dict[str, object]:
    """Returns a model's figures: scores of both forms, how alike their answers are, and the times of a picture."""
    how, package = MODELS[name], find_package(name)
    pictures = how.pictures(data, cache, budget.pictures)
    forms = Forms(package, pictures.training)
    answers = {
        form: in_batches(run, pictures.images, batch=how.batch) for form, run in forms.runs(batch=how.batch).items()
    }
    scores = {form: pictures.scores(one) for form, one in answers.items()}
    lone = {form: partial(run, pictures.images[:1]) for form, run in forms.runs(batch=1, threads=1).items()}
    times = interleaved_ms(lone, count=budget.calls, clock=time.process_time)
    return {
        "pictures": len(pictures.images),
        "fitted_to": len(pictures.training),
        "scores": {score: {form: round(float(one[score]), 4) for form, one in scores.items()} for score in how.scores},
        "processor_ms": {form: summary(one)["p50"] for form, one in times.items()},
        **({"cosine": cosines(answers["float"], answers["int8"])} if package.card.task == "embedding" else {}),
    }


def cosines(left: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Returns the mean and the least cosine between two embeddings of the same pictures.

    Args:
        left: [count, dimension] float32, unit vectors.
        right: [count, dimension] float32, unit vectors.
    """
    found = np.sum(left * right, axis=1)
    return {"mean": round(float(found.mean()), 4), "least": round(float(found.min()), 4)}


def main() -> None:
    """Quantises the shipped models and measures both forms."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the picture sets")
    parser.add_argument("--only", nargs="+", choices=MODELS, help="measure these; the others stay as they were")
    parser.add_argument("--cache", type=Path, default=Path("training/cache"), help="decoded pictures [%(default)s]")
    parser.add_argument("--most", type=int, help="measure on so many held-out pictures of each set, not on all")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"measure little, to see that it works; results go to {QUICK_RESULTS}, no document is changed",
    )
    chosen = parser.parse_args()
    load_nncf()
    budget = QUICK if chosen.quick else FULL
    if chosen.most is not None:
        budget = replace(budget, pictures=replace(budget.pictures, held_out=chosen.most))
    places = report.Places(QUICK_RESULTS, None, None, QUICK_RESULTS) if chosen.quick else report.Places(RESULTS)
    places.results.mkdir(exist_ok=True)
    kept = places.results / "quantisation.json"
    before = json.loads(kept.read_text("utf-8")) if chosen.only and kept.exists() else {}
    models: dict[str, object] = before.get("models", {})
    environments: dict[str, object] = before.get("environments", {})
    for name in chosen.only or MODELS:
        print(f"{name} ...", flush=True)
        models[name] = measure(name, chosen.data, chosen.cache, budget)
        environments[name] = environment()
        result = {"precision": supported_precisions()[0], "environments": environments, "models": models}
        kept.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    print(report.quantisation(places.results))
    if not chosen.quick:
        report.write(places)


if __name__ == "__main__":
    main()
