"""Exports a model package as a file for another runtime, checked before it is put in place.

1. The package's network is built and written in the format, for any batch size or, if that fails, for one picture.
2. The result is run in the format's own runtime on trial pictures and compared with the network (`agreement`).
3. Only then is it moved into place; an existing file stays until then. Its `description` is stored in an ONNX file, and
   in a JSON file beside a StableHLO one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import jax
import numpy as np

from twinsight_core.errors import StartupError
from twinsight_core.exporting.agreement import Agreement, Run, check
from twinsight_core.exporting.description import describe
from twinsight_core.exporting.onnx import described_onnx, run_onnx, to_onnx
from twinsight_core.exporting.stablehlo import run_stablehlo, to_stablehlo
from twinsight_core.host.whole_files import check_regular, write_whole
from twinsight_core.images import Preprocessing
from twinsight_core.models.float32 import in_float32
from twinsight_core.models.registry import Network, telling_all
from twinsight_core.packages import ModelPackage

Format = Literal["onnx", "stablehlo"]
FORMATS: tuple[Format, ...] = ("onnx", "stablehlo")


DESCRIPTION_SUFFIX = ".json"
"""Suffix of the JSON file that describes a StableHLO file."""


class _Write(Protocol):
    """Returns a file's content; `batch` is its batch size, None for any."""

    def __call__(self, network: Network, preprocessing: Preprocessing, *, batch: int | None) -> bytes: ...


class _Way(NamedTuple):
    """How a format is written and run."""

    write: _Write
    run: Callable[[bytes], Callable[[np.ndarray], np.ndarray]]


_WAYS: dict[Format, _Way] = {
    "onnx": _Way(to_onnx, run_onnx),
    "stablehlo": _Way(to_stablehlo, run_stablehlo),
}


@dataclass(frozen=True)
class ExportedFile:
    """An exported file whose outputs agree with its package's.

    Attributes:
        path: its path.
        description: path of the file that describes it; None if it contains its description.
        format: its format.
        size_bytes: its size.
        batch: the batch size that it is for; None for any.
        agreement: how far its outputs were from the network's.
    """

    path: Path
    description: Path | None
    format: Format
    size_bytes: int
    batch: int | None
    agreement: Agreement


def export_package(package: ModelPackage, *, format: Format, out: Path) -> ExportedFile:  # noqa: A002 - the option's name
    """Writes a package's network for another runtime, replacing an existing file.

    The file takes [batch, height, width, 3] uint8, RGB, 0..255, at the package's size, and does the rest of the
    preprocessing itself; it returns [batch, *answer] float32.

    Args:
        package: what is exported.
        format: "onnx" or "stablehlo" (`jax.export`).
        out: the file.

    Raises:
        StartupError: an extra is missing, the format can't express the network, or the file's outputs differ from the
            network's; no file was written.
        OSError: it can't be written.
    """
    check_regular(out)  # before the work, which takes its time
    network, preprocessing, way = package.build(), package.card.preprocessing, _WAYS[format]
    batch: int | None = None
    try:
        content = way.write(network, preprocessing, batch=batch)
    except StartupError as error:
        if error.reason != "EXPORT_UNSUPPORTED":
            raise
        batch = 1
        content = way.write(network, preprocessing, batch=batch)

    def told() -> tuple[Run, Run]:
        every = telling_all(network)
        return way.run(way.write(every, preprocessing, batch=batch)), _run(every)

    described = describe(package, batch=batch)
    if format == "onnx":
        content = described_onnx(content, described)
    agreement = check(
        way.run(content),
        _run(network),
        task=package.card.task,
        preprocessing=preprocessing,
        batch=batch,
        telling_all=told,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(out.name + DESCRIPTION_SUFFIX) if format == "stablehlo" else None
    if beside is not None:
        write_whole(beside, f"{json.dumps(described, indent=2, ensure_ascii=False)}\n".encode())
    write_whole(out, content)
    return ExportedFile(
        path=out, description=beside, format=format, size_bytes=len(content), batch=batch, agreement=agreement
    )


def _run(network: Network) -> Run:
    compiled = jax.jit(in_float32(network))
    return lambda images: np.asarray(compiled(images))
