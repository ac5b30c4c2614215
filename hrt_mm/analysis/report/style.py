"""Style of the figures, which are made without a display."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#d55e00", "#009e73", "#cc3311", "#8a8a8a"
COLORS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00", "#6f4e9c", "#5a5a5a")
"""Colours that people with colour-blindness tell apart (Okabe and Ito)."""
LINE = "#222222"

STYLE: Any = {
    "figure.dpi": 130,
    "savefig.dpi": 130,
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "lines.linewidth": 1.5,
}


@contextmanager
def style() -> Iterator[None]:
    """Applies the style to figures made inside of the block."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


@cache
def heat_map() -> LinearSegmentedColormap:
    """Colours of weights, from pale yellow to dark red."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", ["#fff4d6", "#fdb863", "#e66101", "#7a1f00"])


def panels(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of axes in rows and columns.

    Args:
        rows: of axes.
        columns: of axes.
        width: of one, in inches.
        height: of one, in inches.

    Returns:
        The figure, and a (rows, columns) array of its axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def bare(axes: Axes) -> None:
    """Removes ticks and frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
