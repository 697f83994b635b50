"""The table of `docs/reliability.md`: results of the long forms, generated from `benchmarks/results/torture.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

from benchmarks.recorded import Environment
from benchmarks.report import put
from benchmarks.torture.promise import Figure

DOCUMENT = Path(__file__).parents[2] / "docs/reliability.md"
SECTION = "torture"
_LONGEST = 200


class Entry(TypedDict):
    """What the file holds about a promise."""

    environment: Environment
    number: int
    bar: str
    scale: float
    seconds: float
    cases: int
    holds: bool
    failures: int
    first_failures: list[str]
    figures: dict[str, Figure]


def write(results: Path, document: Path = DOCUMENT) -> None:
    """Puts the table between the document's markers.

    Raises:
        ValueError: the document has no markers.
    """
    entries: dict[str, Entry] = json.loads(results.read_text("utf-8"))
    put(document, {SECTION: "\n".join(table(entries))})


def table(entries: Mapping[str, Entry]) -> Iterator[str]:
    """Yields the table's lines in Markdown, then the machines and commits of the runs."""
    yield "| no. | promise | cases | share of the long form | minutes | figures | result |"
    yield "| --- | --- | ---: | ---: | ---: | --- | --- |"
    for name, one in sorted(entries.items(), key=lambda entry: entry[1]["number"]):
        holds = "holds" if one["holds"] else f"**broken**: {_cell(one['first_failures'][0])}"
        yield (
            f"| {one['number']} | `{name}` | {one['cases']:,} | {one['scale']:.0%} | {one['seconds'] / 60:.1f} "
            f"| {_escaped(told(one['figures']))} | {holds} |"
        )
    yield ""
    tried: dict[str, list[str]] = {}
    for name, one in entries.items():
        machine = one["environment"]["machine"]
        where = f"{machine['cores']} cores of an {machine['cpu']} at commit `{one['environment']['commit']}`"
        tried.setdefault(where, []).append(f"`{name}`")
    yield "Run on " + "; ".join(f"{where} ({', '.join(names)})" for where, names in tried.items()) + "."


def told(figures: Mapping[str, Figure]) -> str:
    """Returns the figures as one line."""
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in figures.items()
    )


def _cell(text: str) -> str:
    return _escaped(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
