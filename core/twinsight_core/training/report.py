"""A run's report: one HTML page with its curves, its scores and pictures of its worst mistakes."""

from __future__ import annotations

import base64
import html
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from PIL import Image as Pillow

from twinsight_core.packages import ModelPackage
from twinsight_core.training.progress import History

mpl.use("agg")
_WIDE_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Arial Unicode MS",
               "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic")  # fmt: skip
# For names of classes in scripts that matplotlib's own font lacks, where the system has one of these.
_INSTALLED = {font.name for font in fontManager.ttflist}
mpl.rcParams["font.family"] = ["sans-serif", *(name for name in _WIDE_FONTS if name in _INSTALLED)]

_THUMBNAIL_PX = 160
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.15rem .8rem;text-align:left;border-bottom:1px solid #ddd}"
    "figure{display:inline-block;margin:.4rem;vertical-align:top;max-width:340px}img{max-width:100%}"
    "figcaption{font-size:13px;color:#444}"
)


@dataclass(frozen=True)
class Mistake:
    """Pictures that the model was wrong about.

    Attributes:
        pictures: [height, width, 3] uint8 each, RGB, 0..255.
        caption: what was wrong.
    """

    pictures: tuple[np.ndarray, ...]
    caption: str


@dataclass(frozen=True)
class Findings:
    """What evaluation found, for a report.

    Attributes:
        protocol: how it was measured, in sentences.
        scores: measures by name.
        figures: plots by title.
        mistakes: the worst ones, worst first.
    """

    protocol: str
    scores: dict[str, float]
    figures: dict[str, Figure] = field(default_factory=dict)
    mistakes: Sequence[Mistake] = ()

    def leaving_out(self, pictures: int, *, copies: int = 0) -> Findings:
        """Returns the same with the numbers of unusable pictures, and of exact copies, in the protocol."""
        told = f" {pictures} pictures of the set can't be used and are left out." if pictures else ""
        told += f" {copies} exact copies of other pictures of their class are left out." if copies else ""
        return replace(self, protocol=f"{self.protocol}{told}")


def write_report(path: Path, package: ModelPackage, findings: Findings, history: History | None = None) -> None:
    """Writes the page.

    Args:
        path: of the HTML file.
        package: the model.
        findings: on its held-out data.
        history: of its training.
    """
    figures = dict(findings.figures)
    if history is not None and history.losses:
        figures = {"Training": curves(history), **figures}
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{value:.4f}</td></tr>" for name, value in findings.scores.items()
    )
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{html.escape(package.name)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(package.name)}</h1><p>{html.escape(package.card.description)}</p>",
        f"<p><code>{package.digest}</code></p>",
        f"<h2>Scores</h2><p>{html.escape(findings.protocol)}</p><table>{rows}</table>",
        *(f"<h2>{html.escape(title)}</h2>{_plot(figure)}" for title, figure in figures.items()),
    ]
    if findings.mistakes:
        parts.append("<h2>Worst mistakes</h2>")
        parts += [_mistake(one) for one in findings.mistakes]
    path.write_text("\n".join(parts), encoding="utf-8")


def curves(history: History) -> Figure:
    """Returns a plot of the loss, and of the validation score if there is one, by step."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*history.losses, strict=True), color="tab:blue", label="loss")
    axes.set(xlabel="step", ylabel="loss")
    if history.scores:
        beside = axes.twinx()
        beside.plot(*zip(*history.scores, strict=True), color="tab:orange", marker=".", label="validation")
        beside.set_ylabel("validation score")
    return figure


def confusion_figure(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> Figure:
    """Returns a plot of the confusion matrix, rows by true class, as shares of each row."""
    counts = np.array(confusion, float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(12.0, 2.5 + 0.4 * len(labels))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= 40:
        axes.set_xticks(range(len(labels)), labels, rotation=90, parse_math=False)
        axes.set_yticks(range(len(labels)), labels, parse_math=False)
    if len(labels) <= 20:
        for row, column in np.argwhere(counts > 0):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=shade, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def lines_figure(
    lines: dict[str, tuple[np.ndarray, np.ndarray]], *, x: str, y: str, logarithmic: bool = False
) -> Figure:
    """Returns a plot of curves by name over common axes."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    drawn = [axes.plot(across, up)[0] for across, up in lines.values()]
    axes.set(xlabel=x, ylabel=y)
    if logarithmic:
        axes.set_xscale("log")
    if len(lines) > 1:
        # Set afterwards: matplotlib drops a label that starts with "_", and reads one with two "$" as a formula.
        legend = axes.legend(drawn, [str(number) for number in range(len(drawn))])
        for text, name in zip(legend.get_texts(), lines, strict=True):
            text.set(text=name, parse_math=False)
    axes.grid(alpha=0.3)
    return figure


def _mistake(one: Mistake) -> str:
    pictures = "".join(_picture(pixels) for pixels in one.pictures)
    return f"<figure>{pictures}<figcaption>{html.escape(one.caption)}</figcaption></figure>"


def _plot(figure: Figure) -> str:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # What none of the fonts has is drawn as a box.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(buffer, format="png", dpi=110)
    return _inline(buffer.getvalue(), "png")


def _picture(pixels: np.ndarray) -> str:
    picture = Pillow.fromarray(pixels)
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return _inline(buffer.getvalue(), "jpeg")


def _inline(encoded: bytes, kind: str) -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(encoded).decode()}">'
