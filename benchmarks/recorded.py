"""What the results hold that tables and plots show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar

from benchmarks.targets import Target

Figures = dict[str, float]


class Machine(TypedDict):
    """Of `environment`."""

    cpu: str
    cores: int


class Environment(TypedDict):
    """Where a result was measured."""

    measured_at: str
    commit: str
    machine: Machine


class Recorded(TypedDict):
    """What all results have."""

    environment: Environment
    what: str
    targets: NotRequired[list[Target]]


class Result(Recorded):
    """One with medians: `embed`."""

    median: Figures


class SearchResult(Result):
    """Of `search`."""

    count: NotRequired[int]
    upserts_per_s: int
    filters: dict[str, Figures]


class StartResult(Result):
    """Of `startup`."""

    cold_s: float


class Throughput(Recorded):
    """Of `throughput`."""

    closed: list[Figures]
    open: list[Figures]
    capacity: Figures
    overload: Figures


class Ingest(Recorded):
    """Of `ingest`."""

    pictures: Figures
    vectors: Figures


class Memory(Recorded):
    """Of `memory`."""

    vectors_mib: float
    links_mib: float
    above_when_written_mib: Figures
    median: Figures


class Point(TypedDict):
    """Of `Recall`, at one width of the walk."""

    ef: int
    hnswlib: Figures
    collection: Figures
    server: Figures


class Recall(Recorded):
    """Of `recall`."""

    kinds: dict[str, list[Point]]


class Growth(Recorded):
    """Of `growth`."""

    search: dict[str, list[Figures]]
    embed: dict[str, list[Figures]]


class Backbones(Recorded):
    """Of `backbones`."""

    executors: dict[str, str]
    backbones: dict[str, Figures]


class QuantisedModel(TypedDict):
    """Of `quantisation`: a model in float and in int8.

    Attributes:
        pictures: held out, that the scores are of.
        fitted_to: pictures that int8's ranges were taken from.
        scores: by the measure's name and the form's, 0..1.
        processor_ms: of a lone picture on one core, by form.
        cosine: between the forms' embeddings of a picture.
    """

    pictures: int
    fitted_to: int
    scores: dict[str, Figures]
    processor_ms: Figures
    cosine: NotRequired[Figures]


class Quantisation(TypedDict):
    """Of `quantisation`."""

    precision: str
    environments: dict[str, Environment]
    models: dict[str, QuantisedModel]


R = TypeVar("R", bound=Mapping[str, object])


def read(kind: type[R], results: Path, name: str) -> R | None:
    """Returns a result of a kind, None where it was not measured."""
    del kind  # for the type checkers
    file = results / f"{name}.json"
    found: R | None = json.loads(file.read_text("utf-8")) if file.exists() else None
    return found


def commits(environments: Mapping[str, Environment], *, named: bool = False) -> str:
    """Returns the commits that results are of, and which of them where there are several, or always if `named`."""
    found = {name: f"`{one['commit']}`" for name, one in environments.items()}
    return f"commit{'s' if len(set(found.values())) > 1 else ''} {_shared(found, named=named)}"


def machines(environments: Mapping[str, Environment]) -> str:
    """Returns the machines that results were measured on, and which of them where there are several."""
    named = {name: one["machine"] for name, one in environments.items()}
    return _shared({name: f"{one['cores']} cores of an {one['cpu']}" for name, one in named.items()})


def _shared(told: Mapping[str, str], *, named: bool = False) -> str:
    """Returns what is told of which results; without their names if it is the same for all, unless `named`."""
    found: dict[str, list[str]] = {}
    for name, one in told.items():
        found.setdefault(one, []).append(f"`{name}`")
    if len(found) == 1 and not named:
        return next(iter(found))
    return ", ".join(f"{one} ({', '.join(names)})" for one, names in found.items())
