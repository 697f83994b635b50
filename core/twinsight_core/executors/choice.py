"""Chooses the executor that serves a model.

`auto` uses OpenVINO if it is installed, JAX has no accelerator, the network can be exported and the exported network's
outputs agree with XLA's; otherwise XLA, on an accelerator in bfloat16 if that agrees with float32. The results for
OpenVINO are kept beside the exported network, so that the next start neither exports nor compares.

1. The exported network is read from the cache or made (`exporting`).
2. For each precision of the CPU, the fastest first, its outputs for test pictures are compared with XLA's.
3. The first that agrees is used.

Modules that need JAX are imported where they are used: a start that finds everything kept does without it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from twinsight_core.errors import StartupError
from twinsight_core.executors.base import Executor
from twinsight_core.executors.kept_files import forget_others, keep, put, read_kept, touch
from twinsight_core.executors.openvino import (
    OpenVinoExecutor,
    load_openvino,
    openvino_told,
    supported_precisions,
)
from twinsight_core.executors.programs import KeptPrograms
from twinsight_core.exporting.agreement import Agreement, agreement, compares_nothing, trial_pictures
from twinsight_core.extras import how_to_install
from twinsight_core.host.accelerators import has_accelerator
from twinsight_core.models.precision import Precision, best_precision
from twinsight_core.packages import ModelPackage

if TYPE_CHECKING:
    from twinsight_core.executors.xla import XlaExecutor

_LOG = logging.getLogger(__name__)

ExecutorKind = Literal["auto", "xla", "openvino"]

_EXPORTERS = ("twinsight", "jax2onnx", "onnxruntime", "jax", "flax")


def choose_executor(package: ModelPackage, kind: ExecutorKind, *, cache_dir: Path) -> Executor:
    """Returns the executor of a package's batches; nothing is prepared yet.

    Args:
        package: the model.
        kind: "xla" or "openvino", or "auto" for the fastest whose outputs agree.
        cache_dir: folder that keeps exported networks and the results about them; trusted.

    Raises:
        StartupError: "openvino" is not installed, can't be used, can't express the network, or does not agree.
        PackageError: the weights can't be read.
    """
    if kind == "xla" or (kind == "auto" and not _openvino_fits()):
        return _xla(package)
    try:
        return _openvino(package, cache_dir)
    except StartupError as error:
        if kind == "openvino":
            raise
        _LOG.warning("serving %s with XLA: %s", package.name, error.message)
        return _xla(package)


class ChosenExecutor:
    """The executor of a package, chosen when it is first prepared: exporting takes seconds on a first start."""

    def __init__(self, package: ModelPackage, kind: ExecutorKind, *, cache_dir: Path) -> None:
        """Takes the arguments of `choose_executor`."""
        self._choose = partial(choose_executor, package, kind, cache_dir=cache_dir)
        self._executor: Executor | None = None

    @property
    def name(self) -> str:
        """Name of the chosen executor; empty before it is chosen."""
        return self._executor.name if self._executor is not None else ""

    @property
    def on_host(self) -> bool:
        """Whether it computes on the cores that also decode pictures.

        Raises:
            StartupError: as `choose_executor`.
        """
        return self._chosen().on_host

    @property
    def is_single_threaded(self) -> bool:
        """Whether `compute` does all of its work in its caller's thread.

        Raises:
            StartupError: as `choose_executor`.
        """
        return self._chosen().is_single_threaded

    def lanes(self) -> Sequence[Executor]:
        """Returns the executors of several batches at the same time; see `Executor.lanes`.

        Raises:
            StartupError: as `choose_executor`.
        """
        return self._chosen().lanes()

    def prepare(self, *batch_sizes: int) -> None:
        """Prepares to compute batches of these sizes.

        Raises:
            StartupError: as `choose_executor`, or the network can't be compiled.
        """
        self._chosen().prepare(*batch_sizes)

    def compute(self, images: np.ndarray) -> np.ndarray:
        """Runs the model on one batch; see `Executor.compute`."""
        if self._executor is None:
            raise KeyError(len(images))
        return self._executor.compute(images)

    def _chosen(self) -> Executor:
        if self._executor is None:
            self._executor = self._choose()
        return self._executor


def _openvino_fits() -> bool:
    return not has_accelerator() and all(find_spec(name) for name in ("openvino", "jax2onnx", "onnxruntime"))


def _xla(package: ModelPackage) -> XlaExecutor:
    """Returns XLA's executor at the device's best precision, or in float32 if that one does not agree."""
    from twinsight_core.executors.xla import XlaExecutor  # noqa: PLC0415 - see above
    from twinsight_core.models.registry import telling_all  # noqa: PLC0415

    network = package.build()
    exact = XlaExecutor(network, package.card.preprocessing)
    if (best := best_precision()) == "f32":
        return exact
    fast = XlaExecutor(network, package.card.preprocessing, precision=best)
    task, answers, wanted = package.card.task, _answers(fast, package), _answers(exact, package)
    if compares_nothing(task, answers, wanted):
        network = telling_all(network)
        answers = _answers(XlaExecutor(network, package.card.preprocessing, precision=best), package)
        wanted = _answers(XlaExecutor(network, package.card.preprocessing), package)
    close = agreement(task, answers, wanted)
    if close.suffices(best):
        return fast
    _LOG.info("computing %s in float32: its outputs differ in %s (%s)", package.name, best, close)
    return exact


def _answers(executor: Executor, package: ModelPackage) -> np.ndarray:
    executor.prepare(1)
    pictures = trial_pictures(package.card.preprocessing)
    return np.concatenate([executor.compute(picture[None]) for picture in pictures])


def _openvino(package: ModelPackage, cache_dir: Path) -> OpenVinoExecutor:
    load_openvino()
    exported = _Exported.of(package, cache_dir)
    found: list[str] = []
    for precision in supported_precisions():
        executor = OpenVinoExecutor(
            exported.onnx, package.card.preprocessing, precision=precision, kept=exported.programs
        )
        close = exported.agreement(executor, precision)
        if close.suffices(precision):
            return executor
        found.append(f"{precision}: {close}")
    raise StartupError(
        f"`{package.name}` does not give the same outputs with OpenVINO as with XLA ({'; '.join(found)}).",
        reason="EXECUTOR_DIFFERS",
    )


@dataclass(frozen=True)
class _Exported:
    """A package's network as ONNX, and how well executors of it agree with XLA.

    Attributes:
        package: the model.
        onnx: the file's content.
        record: file of the agreements by executor.
        programs: its compiled forms.
    """

    package: ModelPackage
    onnx: bytes
    record: Path
    programs: KeptPrograms

    @classmethod
    def of(cls, package: ModelPackage, cache_dir: Path) -> _Exported:
        """Reads it from the cache, or exports it and puts it there.

        Raises:
            StartupError: the exporter is not installed, or can't express the network.
        """
        try:
            versions = "-".join(version(name) for name in _EXPORTERS)
        except PackageNotFoundError as error:
            raise StartupError(
                f"The executor `openvino` needs the package `{error.name}`, which is not installed. "
                f"{how_to_install('openvino')}",
                reason="EXTRA_MISSING",
            ) from error
        network = package.digest.rpartition(":")[2][:32]
        stem = f"{network}-{versions}"
        kept = cache_dir / f"{stem}.network"
        content = read_kept(kept)
        if content is None:
            from twinsight_core.exporting.onnx import to_onnx  # noqa: PLC0415 - see above

            content = to_onnx(package.build(), package.card.preprocessing, batch=None)
            keep(kept, content)
            for kind in ("network", "json"):  # of other versions
                forget_others(kept, f"{network}-*.{kind}")
        return cls(
            package=package,
            onnx=content,
            record=cache_dir / f"{stem}.json",
            programs=KeptPrograms(cache_dir, network, exported=versions),
        )

    def agreement(self, executor: OpenVinoExecutor, precision: Precision) -> Agreement:
        """Returns how well an executor agrees with XLA, as recorded or measured now.

        Raises:
            StartupError: OpenVINO can't compile or compute the network.
        """
        key = f"openvino {load_openvino().__version__} {precision}"
        known = self._recorded()
        if key not in known:
            task, wanted = self.package.card.task, self._wanted
            with openvino_told("compute the network"):
                answers = _answers(executor, self.package)
                if compares_nothing(task, answers, wanted):
                    onnx, wanted = self._telling_all
                    executor = OpenVinoExecutor(onnx, self.package.card.preprocessing, precision=precision)
                    answers = _answers(executor, self.package)
            known[key] = agreement(task, answers, wanted)
            put(self.record, json.dumps({key: one._asdict() for key, one in known.items()}, indent=2).encode())
        return known[key]

    def _recorded(self) -> dict[str, Agreement]:
        """Returns the recorded agreements; none if the record is missing, damaged or unreadable."""
        try:
            known = json.loads(self.record.read_bytes())
            touch(self.record)
            return {key: Agreement(one["measure"], float(one["value"])) for key, one in known.items()}
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return {}

    @cached_property
    def _wanted(self) -> np.ndarray:
        """XLA's outputs for the test pictures, computed once however many precisions are tried."""
        from twinsight_core.executors.xla import XlaExecutor  # noqa: PLC0415 - see above

        exact = XlaExecutor(self.package.build(), self.package.card.preprocessing)
        return _answers(exact, self.package)

    @cached_property
    def _telling_all(self) -> tuple[bytes, np.ndarray]:
        """The network as ONNX without its lowest score, and XLA's outputs of it: see `compares_nothing`."""
        from twinsight_core.executors.xla import XlaExecutor  # noqa: PLC0415 - see above
        from twinsight_core.exporting.onnx import to_onnx  # noqa: PLC0415
        from twinsight_core.models.registry import telling_all  # noqa: PLC0415

        network, preprocessing = telling_all(self.package.build()), self.package.card.preprocessing
        answers = _answers(XlaExecutor(network, preprocessing), self.package)
        return to_onnx(network, preprocessing, batch=None), answers
