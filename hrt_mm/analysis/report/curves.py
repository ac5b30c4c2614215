"""Report section: learning curves from ``metrics.jsonl``."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import UserError
from ...data.storage import parse_json
from ...metrics.retrieval import CONSTANT
from .page import Page
from .style import BLUE, COLORS, GREY, ORANGE, panels
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

COLUMNS = 3
MAX_METRICS = 24
"""Maximum number of metrics to draw; those of the whole come before those of parts."""
_CURVE_OF_SPLIT = {"train": (BLUE, "-", ""), "val": (ORANGE, "-", "o")}
_TITLES = {
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens per second",
    "data_wait": "fraction of time waiting for data",
}
_OTHERS = tuple(_TITLES)

Curves = dict[str, tuple[np.ndarray, np.ndarray]]
"""Steps and values by name."""


def curves_section(subject: Subject, page: Page) -> None:
    """Draws the learning curves."""
    page.heading("Learning curves")
    curves = read_curves(subject.run.folder / "metrics.jsonl")
    if not curves:
        page.text("The run has no `metrics.jsonl` with numbers, so there are no curves.")
        return
    best = subject.run.checkpoint.step
    drawn = metrics_of(curves)
    rest = len(drawn) - MAX_METRICS
    shown = f"The first {MAX_METRICS} of {len(drawn)} metrics" if rest > 0 else "Every metric that training changes"
    caption = f"{shown}, by step. The dashed line is step {best}, whose weights this report shows."
    page.picture("curves", draw_curves(curves, best), caption)
    if rest > 0:
        page.text(f"The other {rest} are in `metrics.jsonl`.")


def read_curves(path: Path) -> Curves:
    """The numbers of a log. Values that were not finite are gaps; lines that are damaged are left out, with a warning.

    A kill may cut the last line short.
    """
    if not path.is_file():
        return {}
    points: dict[str, list[tuple[float, float]]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            values = parse_json(line, f"{path}, line {number}")
        except UserError as error:
            log.warning("%s; it is left out of the curves", error)
            continue
        for name, value in _numbers(values):
            points.setdefault(name, []).append((values["step"], value))
    return {name: (np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])) for name, pairs in points.items()}


def _numbers(values: Any) -> Iterable[tuple[str, float]]:
    if not isinstance(values, dict) or not _is_number(values.get("step")):
        return
    for name, value in values.items():
        # Values that were not finite are null in the log, and gaps in the curve.
        if value is None:
            yield name, math.nan
        elif _is_number(value):
            yield name, float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def draw_curves(curves: Curves, best: int) -> Figure:
    """A panel for each metric with all splits; then the learning rate, the gradient norm and the speed."""
    titles = [*metrics_of(curves)[:MAX_METRICS], *(name for name in _OTHERS if name in curves)]
    columns = min(COLUMNS, len(titles))
    rows = math.ceil(len(titles) / columns)
    figure, grid = panels(rows, columns, width=3.2, height=2.3)
    for axes, title in zip(grid.flat, titles, strict=False):
        _panel(axes, curves, title, best)
    for axes in grid.flat[len(titles) :]:
        axes.set_visible(False)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return figure


def metrics_of(curves: Curves) -> list[str]:
    """Names of the metrics: the loss, those of the whole, then those of parts, such as one retrieval direction.

    Figures that depend on the data alone are left out.
    """
    parts = [name.partition("/") for name in curves]
    metrics = dict.fromkeys(metric for split, _, metric in parts if split in _CURVE_OF_SPLIT)
    distinct = [name for name in metrics if not _same_as_loss(curves, name) and name.rpartition("/")[2] not in CONSTANT]
    return sorted(distinct, key=lambda name: (name != "loss", name.count("/")))


def _same_as_loss(curves: Curves, name: str) -> bool:
    """Whether a part of the loss is identical to the loss, so that its panel would be redundant."""
    if name == "loss":
        return False
    pairs = [(curves.get(f"{split}/{name}"), curves.get(f"{split}/loss")) for split in _CURVE_OF_SPLIT]
    return all(loss is not None and _equal(part[1], loss[1]) for part, loss in pairs if part is not None)


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, equal_nan=True)


def _panel(axes: Axes, curves: Curves, title: str, best: int) -> None:
    drawn = [(name, style) for name, style in _curves_of(title) if name in curves]
    for name, (color, line, marker) in drawn:
        steps, values = curves[name]
        axes.plot(steps, values, color=color, linestyle=line, marker=marker, markersize=3, label=name.partition("/")[0])
    axes.axvline(best, color=GREY, linestyle="--", linewidth=0.8)
    axes.set_title(_TITLES.get(title, title))
    axes.set_xlabel("step")
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    values = np.concatenate([curves[name][1] for name, _ in drawn])
    values = values[np.isfinite(values)]
    # On a linear axis the end of a loss that falls by orders of magnitude would lie on the axis.
    if len(values) and values.min() > 0 and values.max() > 50 * values.min() and title != "lr":
        axes.set_yscale("log")


def _curves_of(title: str) -> list[tuple[str, tuple[str, str, str]]]:
    if title in _OTHERS:
        return [(title, (COLORS[2], "-", ""))]
    return [(f"{split}/{title}", style) for split, style in _CURVE_OF_SPLIT.items()]
