"""The plots, drawn from `benchmarks/results` as small SVG files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from benchmarks.recorded import Figures, Growth, Recall, Throughput, read

_COLOURS = {"hnswlib": "tab:grey", "collection": "tab:orange", "server": "tab:blue"}
_NAMES = {"hnswlib": "hnswlib alone", "collection": "collection, in process", "server": "through the server"}


def draw(results: Path, folder: Path) -> list[Path]:
    """Draws what there are results for; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with mpl.rc_context(
        {
            "svg.fonttype": "none",  # text stays text, which is a tenth of its outlines
            "svg.hashsalt": "twinsight",  # the same results give the same file
            "font.size": 9,
            "font.sans-serif": ["DejaVu Sans", "sans-serif"],
            "axes.grid": True,
            "axes.grid.axis": "y",
            "grid.alpha": 0.3,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.marker": ".",
        }
    ):
        for name, figure in _figures(results):
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None})
            files.append(folder / f"{name}.svg")
            files[-1].write_text(re.sub(r"\n +", "\n", drawn.getvalue()), "utf-8")  # indentation is a tenth of it
    return files


def _figures(results: Path) -> Iterator[tuple[str, Figure]]:
    load = read(Throughput, results, "throughput")
    if load is not None:
        yield "throughput", _throughput(load)
        yield "open_loop", _open_loop(load)
    found = read(Recall, results, "recall")
    if found is not None:
        yield "recall", _recall(found)
    growth = read(Growth, results, "growth")
    if growth is not None:
        yield "growth", _growth(growth)


def _throughput(result: Throughput) -> Figure:
    figure, (rate, latency) = _panels(2)
    closed = result["closed"]
    calls = _column(closed, "concurrency")
    rate.plot(calls, _column(closed, "in_process_per_s"), color="tab:grey", label="the same work in process")
    rate.plot(calls, _column(closed, "per_s"), color="tab:blue", label="Embed")
    latency.plot(calls, _column(closed, "p50_ms"), color="tab:blue", label="p50")
    latency.plot(calls, _column(closed, "p99_ms"), color="tab:orange", label="p99")
    for axes, label in ((rate, "pictures a second"), (latency, "latency, ms")):
        _powers(axes, calls)
        _finish(axes, "calls in flight", label)
    return figure


def _open_loop(result: Throughput) -> Figure:
    figure, (answered, latency) = _panels(2)
    swept = result["open"]
    rates = _column(swept, "rate")
    answered.plot(rates, rates, color="tab:grey", marker="", linestyle=":", label="due")
    answered.plot(rates, _column(swept, "per_s"), color="tab:blue", label="answered")
    latency.plot(rates, _column(swept, "p50_ms"), color="tab:blue", label="p50")
    latency.plot(rates, _column(swept, "p99_ms"), color="tab:orange", label="p99")
    if refused := [one for one in swept if "refused_p99_ms" in one]:
        times = _column(refused, "refused_p99_ms")
        latency.plot(_column(refused, "rate"), times, color="tab:red", label="refusals, p99")
    _decades(latency)
    for axes, label in ((answered, "calls a second"), (latency, "latency from the due time, ms")):
        axes.axvline(result["capacity"]["per_s"], color="black", linewidth=0.6)
        _finish(axes, "calls due a second (line: capacity)", label)
    return figure


def _recall(result: Recall) -> Figure:
    figure = Figure(figsize=(9, 6), layout="constrained")
    grid = figure.subplots(2, len(result["kinds"]), squeeze=False)
    for column, (kind, points) in enumerate(result["kinds"].items()):
        for row, (batch, label) in enumerate((("one", "one query a call"), ("many", "64 queries a call"))):
            axes = grid[row][column]
            for name, colour in _COLOURS.items():
                those: list[Figures] = [
                    {"hnswlib": point["hnswlib"], "collection": point["collection"], "server": point["server"]}[name]
                    for point in points
                ]
                axes.plot(_column(those, "recall"), _column(those, f"{batch}_per_s"), color=colour, label=_NAMES[name])
            _decades(axes)
            axes.set_title(f"{kind} vectors, {label}", fontsize=9)
            _finish(axes, "recall@10", "queries a second")
    return figure


def _growth(result: Growth) -> Figure:
    series = [
        ("vectors in the collection", "count", result["search"]["collection"]),
        ("dimension", "dimension", result["search"]["dimension"]),
        ("calls in flight", "concurrency", result["search"]["concurrency"]),
        ("queries a call", "batch", result["search"]["batch"]),
        ("pictures a call (Embed)", "batch", result["embed"]["batch"]),
    ]
    figure = Figure(figsize=(11, 5), layout="constrained")
    grid = figure.subplots(2, len(series))
    for column, (label, name, points) in enumerate(series):
        values = _column(points, name)
        latency, rate = grid[0][column], grid[1][column]
        latency.plot(values, _column(points, "p50_ms"), color="tab:blue")
        rate.plot(values, _column(points, "per_s"), color="tab:blue")
        for axes in (latency, rate):
            _powers(axes, values)
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_xlabel(label)
    grid[0][0].set_ylabel("p50, ms")
    grid[1][0].set_ylabel("a second")
    return figure


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    return figure, list(figure.subplots(1, count))


def _powers(axes: Axes, values: Sequence[float]) -> None:
    """Makes the axis across logarithmic, marked at the values themselves."""
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{one:,.0f}" for one in values])
    axes.xaxis.set_minor_locator(NullLocator())


def _decades(axes: Axes) -> None:
    """Makes the axis upwards logarithmic, marked at 1, 2 and 5 times the powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    axes.legend(frameon=False)


def _column(points: Sequence[Figures], name: str) -> list[float]:
    return [point.get(name, float("nan")) for point in points]
