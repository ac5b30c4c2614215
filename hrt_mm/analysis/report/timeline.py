"""Timelines: a sample with the groups of every level, its annotations and the recognized words.

Shapes: N frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...core.pyramid import Pyramid
from ...core.spans import Spans
from ...tasks.base import Task
from ...tasks.ctc import Frames
from ...tasks.ctc.task import CTC
from ...tasks.ctc.words import GreedyStream
from .style import COLORS, GREEN, GREY, LINE, ORANGE, panels
from .view import View, cells_of_levels, draw_level_bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LabelledSpans = Sequence[tuple[float, float, str]]
"""Start and end in seconds, and label, of each span."""
MAX_SECONDS = 6.0
"""Maximum duration to draw, so that labels remain legible."""
_WIDTH, _SAMPLE, _ROW = 11.0, 2.0, 0.26
"""Width of a figure, and height of the sample and of a row below it, in inches."""
_MIN_FONT, _MAX_FONT = 5.0, 9.0
"""Font size of labels, in points."""


def recognized(task: Task, pyramid: Pyramid, seconds: float) -> dict[str, LabelledSpans]:
    """The output of a CTC task on one sample, by unit: its symbols, and what they are spelled with.

    Args:
        task: any task; empty for others than CTC.
        pyramid: of the sample.
        seconds: per level-0 token.
    """
    if not isinstance(task, CTC):
        return {}
    scored: dict[str, tuple[tuple[str, ...], Frames]] = {task.unit: (task.symbols, task.scores(pyramid))}
    if task.finer is not None:
        name = task.finer.error_rate.removesuffix("_error_rate") + "s"
        scored[name] = (task.finer.symbols, task.finer.scores(pyramid))
    spans: dict[str, LabelledSpans] = {}
    for name, (symbols, frames) in scored.items():
        stream = GreedyStream(symbols, seconds)
        first_N, last_N = frames.edges_N2.numpy().T
        words = [*stream.feed(frames.x_ND.cpu(), first_N, last_N), *stream.flush()]
        spans[name] = [(word.start, word.end, word.label) for word in words]
    return spans


def draw_timeline(
    view: View,
    pyramid: Pyramid,
    seconds: float,
    annotations: Mapping[str, LabelledSpans],
    predictions: Mapping[str, LabelledSpans],
    title: str,
) -> Figure:
    """Draws one sample over time.

    At the top is the sample with a line at each group border, taller for coarser levels. Below is a row for each level,
    and rows of labelled spans.

    Args:
        view: the sample.
        pyramid: its levels.
        seconds: per level-0 token.
        annotations: true spans, by unit.
        predictions: recognized spans, by unit.
        title: of the figure.
    """
    cells = cells_of_levels(pyramid)
    tracks = {f"{name}, true": (spans, GREEN) for name, spans in annotations.items()}
    tracks |= {f"{name}, recognized": (spans, ORANGE) for name, spans in predictions.items()}
    rows = len(cells) + len(tracks)
    figure, grid = panels(2, 1, width=_WIDTH, height=(_SAMPLE + _ROW * rows + 0.9) / 2)
    above, below = grid[0, 0], grid[1, 0]
    above.get_subplotspec().get_gridspec().set_height_ratios([_SAMPLE, _ROW * rows])
    view.draw(above)
    limit = min(above.get_xlim()[1], MAX_SECONDS / seconds)
    above.set_xlim(0, limit)
    above.set_title(title, loc="left")
    above.set_xticks([])
    _borders(above, cells, limit)
    draw_level_bars(below, cells, limit)
    below.set_xlim(0, limit)
    for row, (spans, color) in enumerate(tracks.values(), len(cells)):
        _labelled(below, row, spans, seconds, limit, color)
    below.set_yticks(range(rows), [*(f"{name}: {len(spans)}" for name, spans in cells.items()), *tracks])
    below.set_ylim(rows - 0.5, -0.5)
    below.tick_params(axis="y", length=0, colors=LINE)
    below.spines["left"].set_visible(False)
    _seconds(below, seconds, limit)
    return figure


def _borders(axes: Axes, cells: Mapping[str, Spans], limit: float) -> None:
    """Draws lines between the groups of each level over a sample, with the level's name at their top."""
    from matplotlib.transforms import blended_transform_factory

    along = blended_transform_factory(axes.transData, axes.transAxes)
    names = list(cells)
    for index, name in enumerate(names):
        top = max(0.08, index / max(1, len(names) - 1))
        borders = [border for border in cells[name].host.tolist() if 0 < border < limit]
        color = COLORS[index % len(COLORS)]
        # A pale line beneath keeps those of coarse levels visible on a dark sample.
        axes.vlines(
            borders, 0, top, color="white", linewidth=1.2 + 0.5 * index, alpha=0.3 * bool(index), transform=along
        )
        axes.vlines(borders, 0, top, color=color, linewidth=0.5 + 0.5 * index, alpha=0.95, transform=along)
        axes.text(1.005, top, name, color=color, size=8, ha="left", va="top", transform=axes.transAxes, clip_on=False)


def _labelled(axes: Axes, row: int, spans: LabelledSpans, seconds: float, limit: float, color: str) -> None:
    """Draws a row of labelled spans. Labels shrink to fit, down to the minimum font size."""
    # 72 points an inch; the margins of the figure take 2 inches.
    points_per_token = 72 * (_WIDTH - 2.0) / limit
    for start, end, label in spans:
        first, last = start / seconds, min(end / seconds, limit)
        if first >= limit:
            continue
        axes.barh(row, last - first, left=first, height=0.8, color=color, alpha=0.22, edgecolor=color, linewidth=0.8)
        # A letter is 0.62 of the font size wide, on average.
        fitting_size = points_per_token * (last - first) / (0.62 * max(1, len(label)))
        size = min(_MAX_FONT, max(_MIN_FONT, fitting_size))
        middle = (first + last) / 2
        axes.text(middle, row, label, size=size, ha="center", va="center", color=LINE, parse_math=False, clip_on=True)


def _seconds(axes: Axes, seconds: float, limit: float) -> None:
    """Draws ticks in seconds along level-0 tokens."""
    length = limit * seconds
    # At most 16 ticks, so that their labels do not touch.
    interval = next((interval for interval in (0.1, 0.2, 0.5, 1.0) if length / interval <= 16), 2.0)
    ticks = [interval * index for index in range(int(length / interval) + 1)]
    axes.set_xticks([tick / seconds for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("seconds", color=GREY)
