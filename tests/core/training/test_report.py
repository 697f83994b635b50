import io

import numpy as np
from matplotlib.figure import Figure

from twinsight_core.training.report import confusion_figure, lines_figure

# Two "$" are a formula to matplotlib, and this one can't be parsed; a label that starts with "_" is left out.
NAMES = ["US$ to A$", r"$\frac$", "_hidden"]


def texts(figure: Figure) -> set[str]:
    """Draws a figure and returns its texts."""
    figure.savefig(io.BytesIO(), format="png")
    axes = figure.axes[0]
    legend = axes.get_legend()
    found = [*axes.get_xticklabels(), *axes.get_yticklabels(), *(legend.get_texts() if legend else [])]
    return {one.get_text() for one in found}


def test_names_of_classes_are_drawn_as_they_are() -> None:
    assert texts(confusion_figure(np.eye(3, dtype=int).tolist(), NAMES)) == set(NAMES)
    line = (np.array([1e-3, 1.0]), np.array([0.0, 1.0]))
    assert set(NAMES) < texts(lines_figure(dict.fromkeys(NAMES, line), x="recall", y="precision", logarithmic=True))
