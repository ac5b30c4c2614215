"""Samples in time: the groups of every level drawn over one, beside what is known of it and what the task heard.

Shapes: N steps.
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
from .view import View, cells_of_levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Parts = Sequence[tuple[float, float, str]]
"""Start, end and label of each part; times in seconds."""
LONGEST_S = 6.0
"""Seconds that are drawn at most: labels of more cannot be read."""
_WIDTH, _SAMPLE, _ROW = 11.0, 2.0, 0.26
"""Inches: of a picture, of the sample in it, of a row under it."""
_SMALLEST, _LARGEST = 5.0, 9.0
"""Points of a label."""


def heard(task: Task, pyramid: Pyramid, seconds: float) -> dict[str, Parts]:
    """What a task with CTC makes of one sample, by unit: its symbols, and what they are spelled with.

    Args:
        task: any task; others hear nothing.
        pyramid: of the sample.
        seconds: of a level-0 token.
    """
    if not isinstance(task, CTC):
        return {}
    scored: dict[str, tuple[tuple[str, ...], Frames]] = {task.unit: (task.symbols, task.scores(pyramid))}
    if task.finer is not None:
        name = task.finer.error_rate.removesuffix("_error_rate") + "s"
        scored[name] = (task.finer.symbols, task.finer.scores(pyramid))
    found: dict[str, Parts] = {}
    for name, (symbols, steps) in scored.items():
        stream = GreedyStream(symbols, seconds)
        first_N, last_N = steps.edges_N2.numpy().T
        words = [*stream.feed(steps.x_ND.cpu(), first_N, last_N), *stream.flush()]
        found[name] = [(word.start, word.end, word.label) for word in words]
    return found


def draw_timeline(
    view: View, pyramid: Pyramid, seconds: float, known: Mapping[str, Parts], heard: Mapping[str, Parts], title: str
) -> Figure:
    """One sample in time.

    Above the sample, with a line at each border between groups: the coarser the level, the taller. Below a row a level,
    and rows of labelled parts.

    Args:
        view: the sample.
        pyramid: its levels.
        seconds: of a level-0 token.
        known: what is known of it.
        heard: what the task made of it.
        title: over the picture.
    """
    cells = cells_of_levels(pyramid)
    tracks = {f"{name}, true": (parts, GREEN) for name, parts in known.items()}
    tracks |= {f"{name}, heard": (parts, ORANGE) for name, parts in heard.items()}
    rows = len(cells) + len(tracks)
    figure, grid = panels(2, 1, width=_WIDTH, height=(_SAMPLE + _ROW * rows + 0.9) / 2)
    above, below = grid[0, 0], grid[1, 0]
    above.get_subplotspec().get_gridspec().set_height_ratios([_SAMPLE, _ROW * rows])
    view.draw(above)
    limit = min(above.get_xlim()[1], LONGEST_S / seconds)
    above.set_xlim(0, limit)
    above.set_title(title, loc="left")
    above.set_xticks([])
    _borders(above, cells, limit)
    _level_rows(below, cells, limit)
    for place, (parts, color) in enumerate(tracks.values(), len(cells)):
        _labelled(below, place, parts, seconds, limit, color)
    below.set_yticks(range(rows), [*(f"{name}: {len(spans)}" for name, spans in cells.items()), *tracks])
    below.set_ylim(rows - 0.5, -0.5)
    below.tick_params(axis="y", length=0, colors=LINE)
    below.spines["left"].set_visible(False)
    _seconds(below, seconds, limit)
    return figure


def _borders(axes: Axes, cells: Mapping[str, Spans], limit: float) -> None:
    """Lines between the groups of each level over a sample, and the level's name at their top."""
    from matplotlib.transforms import blended_transform_factory

    along = blended_transform_factory(axes.transData, axes.transAxes)
    names = list(cells)
    for place, name in enumerate(names):
        top = max(0.08, place / max(1, len(names) - 1))
        borders = [border for border in cells[name].host.tolist() if 0 < border < limit]
        color = COLORS[place % len(COLORS)]
        axes.vlines(
            borders, 0, top, color="white", linewidth=1.2 + 0.5 * place, alpha=0.3 * bool(place), transform=along
        )
        axes.vlines(borders, 0, top, color=color, linewidth=0.5 + 0.5 * place, alpha=0.95, transform=along)
        axes.text(1.005, top, name, color=color, size=8, ha="left", va="top", transform=axes.transAxes, clip_on=False)


def _level_rows(axes: Axes, cells: Mapping[str, Spans], limit: float) -> None:
    """The tokens of each level as bars, in two shades by turns."""
    for place, spans in enumerate(cells.values()):
        shown = int((spans.host[:-1] < limit).sum())
        starts, lengths = spans.host[:shown].tolist(), spans.lengths[:shown].tolist()
        bars = axes.barh([place] * shown, lengths, left=starts, height=0.8, color=COLORS[place % len(COLORS)])
        for rank, bar in enumerate(bars):
            bar.set_alpha(0.85 if rank % 2 else 0.45)
    axes.set_xlim(0, limit)


def _labelled(axes: Axes, place: int, parts: Parts, seconds: float, limit: float, color: str) -> None:
    """A row of labelled parts. A label that is wider than its part is as small as can still be read."""
    per_token = 72 * (_WIDTH - 2.0) / limit
    for start, end, label in parts:
        first, last = start / seconds, min(end / seconds, limit)
        if first >= limit:
            continue
        axes.barh(place, last - first, left=first, height=0.8, color=color, alpha=0.22, edgecolor=color, linewidth=0.8)
        room = per_token * (last - first) / (0.62 * max(1, len(label)))
        size = min(_LARGEST, max(_SMALLEST, room))
        middle = (first + last) / 2
        axes.text(middle, place, label, size=size, ha="center", va="center", color=LINE, parse_math=False, clip_on=True)


def _seconds(axes: Axes, seconds: float, limit: float) -> None:
    """Ticks in seconds along level-0 tokens."""
    length = limit * seconds
    step = next((step for step in (0.1, 0.2, 0.5, 1.0) if length / step <= 16), 2.0)
    ticks = [step * place for place in range(int(length / step) + 1)]
    axes.set_xticks([tick / seconds for tick in ticks], [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("seconds", color=GREY)
