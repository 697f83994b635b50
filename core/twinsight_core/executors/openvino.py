"""Computes batches with OpenVINO on the CPU, from a network exported to ONNX."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Protocol, cast

import numpy as np

from twinsight_core.errors import StartupError
from twinsight_core.executors.programs import KeptPrograms
from twinsight_core.exporting import INPUT
from twinsight_core.extras import how_to_install
from twinsight_core.host.cores import core_count, usable_cores
from twinsight_core.images import Preprocessing
from twinsight_core.models.precision import Precision

_LOG = logging.getLogger(__name__)

MOST_LANES = 16
"""On machines with more cores a lane gets several: each lane keeps its own buffers for every batch size."""

_TELEMETRY = "openvino_telemetry"


class _Request(Protocol):
    """One set of buffers of a compiled model."""

    def infer(self, inputs: np.ndarray, *, share_inputs: bool, share_outputs: bool) -> Mapping[int, np.ndarray]: ...


class _Compiled(Protocol):
    def create_infer_request(self) -> _Request: ...

    def export_model(self) -> BytesIO: ...


class _Model(Protocol):
    def reshape(self, shapes: Mapping[str, list[int]]) -> None: ...


class _Core(Protocol):
    def read_model(self, model: bytes) -> _Model: ...

    def compile_model(self, model: _Model, device: str, options: Mapping[str, str]) -> _Compiled: ...

    def import_model(self, program: object, device: str, options: Mapping[str, str]) -> _Compiled: ...

    def get_property(self, device: str, name: str) -> object: ...


class OpenVino(Protocol):
    """The part of the module that is used here."""

    __version__: str

    def Core(self) -> _Core:  # noqa: N802 - OpenVINO's name
        """Returns the object that reads and compiles models."""
        ...

    def Tensor(self, array: np.ndarray) -> object:  # noqa: N802 - OpenVINO's name
        """Returns a copy of an array in OpenVINO's memory."""
        ...


def load_openvino() -> OpenVino:
    """Returns the module, with its telemetry disabled.

    On import OpenVINO sends an event over the network if `openvino_telemetry`, which is installed with it, can be
    imported; a server that holds people's pictures must not call anyone.

    Raises:
        StartupError: the extra `openvino` is not installed, or can't be loaded.
    """
    if _TELEMETRY not in sys.modules:
        # To Python, None means that there is no such module; OpenVINO then uses a stub of its own.
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return cast("OpenVino", importlib.import_module("openvino"))
    except ModuleNotFoundError as error:
        raise StartupError(
            f"The executor `openvino` needs the module `{error.name}`, which is not installed. "
            f"{how_to_install('openvino')}",
            reason="EXTRA_MISSING",
        ) from error
    except Exception as error:  # a library that the system lacks, say, or one of another version
        raise StartupError(f"OpenVINO can't be loaded ({_said(error)}).", reason="EXECUTOR_UNUSABLE") from error


@cache
def _core() -> _Core:
    """Returns the process's one core, which is kept until the process ends.

    A core gives its thread a signal stack and frees that memory when it is released, while the thread may still be
    using it. With several cores, or with one released in another thread, the next signal would end the process.

    Raises:
        StartupError: the extra `openvino` is not installed, or can't be used.
    """
    with openvino_told("be used"):
        return load_openvino().Core()


# By default each program pins its threads to cores, one after another: two that compute at the same time, for another
# batch size or another model, share one core while another is idle.
_FREE_THREADS = {"ENABLE_CPU_PINNING": "NO"}


@dataclass(frozen=True)
class Share:
    """What a batch gets of the cores.

    Attributes:
        streams: batches computed at the same time, among which a program divides the cores.
        threads: that compute a batch; None: as many as OpenVINO finds best.
    """

    streams: int = 1
    threads: int | None = None


ALL = Share()
ONE_CORE = Share(threads=1)
"""Computes in its caller's thread. Every other program passes the batch to a thread of OpenVINO's, which may take the
core from a thread that has the interpreter while another core is idle."""


@cache
def _environment() -> str:
    """Returns what a compiled network depends on: another OpenVINO or another machine compiles it differently."""
    machine = [_core().get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    return repr((load_openvino().__version__, machine, len(usable_cores()), core_count(), _FREE_THREADS))


def supported_precisions() -> tuple[Precision, ...]:
    """Returns the precisions that this CPU computes natively, the fastest first.

    Raises:
        StartupError: the extra `openvino` is not installed, or can't be used.
    """
    with openvino_told("be used"):
        found = cast("list[str]", _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    return ("bf16", "f32") if "BF16" in found else ("f32",)


class OpenVinoExecutor:
    """Compiles an exported network, once for each batch size: with fixed shapes its kernels are the fastest.

    Its lanes compute one batch each at the same time, on a core of their own where there are enough. Threads that share
    a batch wait for one another at every layer, and if decoding takes their cores in turn they do little else: a server
    that gave each batch all cores spent a third more time on a picture.

    On two cores of an AMD EPYC with AVX-512 `base` takes a fifth of XLA's time in bfloat16, and half of ONNX Runtime's.
    """

    def __init__(
        self,
        onnx: bytes,
        preprocessing: Preprocessing,
        *,
        precision: Precision,
        kept: KeptPrograms | None = None,
        share: Share = ALL,
    ) -> None:
        """Takes the network.

        Args:
            onnx: as `exporting.to_onnx` makes it, for any batch size.
            preprocessing: says height and width.
            precision: one of `supported_precisions`.
            kept: compiled forms of this network; None to compile it each time.
            share: of the cores, for one batch.

        Raises:
            StartupError: the extra `openvino` is not installed, or can't be used.
        """
        _core()  # here, not in a thread that ends
        self._onnx = onnx
        self._preprocessing = preprocessing
        self._precision: Precision = precision
        self._kept = kept
        self._share = share
        self._programs: dict[int, _Compiled] = {}  # by batch size
        self._requests: dict[int, _Request] = {}
        # By form. Programs made of one of these share its float32 weights: a lane of `base` takes 38 MB instead of 62.
        self._exported: dict[str, object] = {}

    @property
    def name(self) -> str:
        """`openvino:cpu:` and the precision."""
        return f"openvino:cpu:{self._precision}"

    @property
    def on_host(self) -> bool:
        """It computes on the host's cores."""
        return True

    @property
    def is_single_threaded(self) -> bool:
        """Whether it has one thread: OpenVINO then computes in the caller's."""
        return self._share == ONE_CORE

    def lanes(self) -> Sequence[OpenVinoExecutor]:
        """Returns an executor for each core, or `MOST_LANES` that divide the cores; of a lane, itself alone."""
        if self._share != ALL:
            return [self]
        if core_count() <= MOST_LANES:
            return [self._lane(ONE_CORE) for _ in range(core_count())]
        lanes = [self._lane(Share(streams=MOST_LANES)) for _ in range(MOST_LANES)]
        for lane in lanes:
            lane._programs = lanes[0]._programs
        return lanes

    def _lane(self, share: Share) -> OpenVinoExecutor:
        lane = OpenVinoExecutor(
            self._onnx, self._preprocessing, precision=self._precision, kept=self._kept, share=share
        )
        lane._exported = self._exported
        return lane

    def prepare(self, *batch_sizes: int) -> None:
        """Compiles for each size, in parallel, or loads what is kept or another lane has compiled.

        Raises:
            StartupError: OpenVINO can't compile the network.
        """
        missing = [size for size in batch_sizes if size not in self._programs]
        with (
            openvino_told("compile the network"),
            ThreadPoolExecutor(core_count(), thread_name_prefix="compile") as pool,
        ):
            self._programs.update(zip(missing, pool.map(self._program, missing), strict=True))
            for size in batch_sizes:
                self._requests[size] = self._programs[size].create_infer_request()

    def _program(self, batch_size: int) -> _Compiled:
        options = {
            "INFERENCE_PRECISION_HINT": self._precision,
            "NUM_STREAMS": str(self._share.streams),
            **_FREE_THREADS,
        }
        if self._share.threads:
            options["INFERENCE_NUM_THREADS"] = str(self._share.threads)
        elif core_count() < len(usable_cores()):  # a quota, of which OpenVINO does not know
            options["INFERENCE_NUM_THREADS"] = str(core_count())
        form = f"{self._precision}-{batch_size}-{self._share.streams}-{self._share.threads or 'all'}"
        if (known := self._known(form)) is not None:
            try:
                return _core().import_model(known, "CPU", options)
            except RuntimeError as error:  # all that OpenVINO raises
                self._exported.pop(form, None)
                _LOG.warning("can't use a kept network, compiling it again: %s", error)
        model = _core().read_model(self._onnx)
        size = self._preprocessing
        model.reshape({INPUT: [batch_size, size.height_px, size.width_px, 3]})
        compiled = _core().compile_model(model, "CPU", options)
        program = compiled.export_model().getvalue()
        self._exported[form] = _in_openvino(program)
        if self._kept:
            self._kept.keep(_environment(), form, program)
        return compiled

    def _known(self, form: str) -> object | None:
        """Returns a program that another lane has exported or that is kept; None if there is none."""
        if form not in self._exported and self._kept and (kept := self._kept.load(_environment(), form)) is not None:
            self._exported[form] = _in_openvino(kept)
        return self._exported.get(form)

    def compute(self, images: np.ndarray) -> np.ndarray:
        """Runs the model on one batch of a prepared size; see `Executor.compute`."""
        answers = self._requests[len(images)].infer(images, share_inputs=True, share_outputs=True)
        # The next call reuses the buffer.
        return np.array(answers[0], np.float32)


def _in_openvino(program: bytes) -> object:
    return load_openvino().Tensor(np.frombuffer(program, np.uint8))


@contextmanager
def openvino_told(task: str) -> Iterator[None]:
    """Turns OpenVINO's errors into a message for the person at the terminal.

    Args:
        task: what it can't do, for the message.

    Raises:
        StartupError: OpenVINO failed.
    """
    try:
        yield
    except RuntimeError as error:  # all that OpenVINO raises
        raise StartupError(f"OpenVINO can't {task} ({_said(error)}).", reason="EXECUTOR_UNUSABLE") from error


def _said(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2][:200]
