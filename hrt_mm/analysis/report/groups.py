"""Section: samples with their groups at each level."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import torch

from ...core.pyramid import Pyramid
from ...core.spans import Spans
from ...data.capabilities import Timelined, seconds_per_token
from ...data.sample import Sample
from .page import Page
from .style import COLORS, LINE, panels
from .subject import Subject
from .timeline import draw_timeline, heard
from .view import View, cells_of_levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 3
"""Samples that are drawn."""
LONGEST, WRAPPED = 80, 20
"""Characters of a label at most, and of a line of it beside a picture."""


def groups_section(subject: Subject, page: Page) -> None:
    """Draws some samples at each level, and tells how many tokens each level has."""
    encoder = subject.encoder
    assert encoder is not None
    page.heading("Groups")
    drawn = []
    for sample, view in subject.views(SHOWN):
        with torch.no_grad():
            pyramid = encoder(view.tokens.to(subject.device))
        drawn.append((sample, view, pyramid))
    seconds = seconds_per_token(subject.tokenizer)
    if seconds is not None and not drawn[0][1].gridded:
        _timelines(subject, page, drawn, seconds)
    else:
        figure = draw_grids(drawn) if drawn[0][1].gridded else draw_runs(drawn)
        caption = "Samples at each level: the lines are the borders between what became one token."
        page.picture("groups", figure, caption)
    page.table(
        ("level", "tokens a sample", "tokens a group (mean)", "shortest", "longest"),
        group_sizes([pyramid for _, _, pyramid in drawn]),
    )


def _timelines(subject: Subject, page: Page, drawn: list[tuple[Sample, View, Pyramid]], seconds: float) -> None:
    """A picture a sample."""
    for number, (sample, view, pyramid) in enumerate(drawn, 1):
        with torch.no_grad():
            found = heard(subject.run.task, pyramid, seconds)
        modality = subject.modality
        known = modality.timeline(sample.value) if issubclass(modality, Timelined) else {}
        figure = draw_timeline(view, pyramid, seconds, known, found, sample.name)
        caption = "A sample with the groups of every level: lines over it, the coarser the taller, and bars below it"
        beside = [what for what, parts in (("what is known of it", known), ("what was heard", found)) if parts]
        page.picture(f"groups-{number}", figure, f"{caption}{', with ' * bool(beside)}{' and '.join(beside)}.")


def group_sizes(pyramids: list[Pyramid]) -> list[tuple[str, ...]]:
    """A row a level: tokens of a sample, and of a group that leads to the next level."""
    rows = []
    for name in pyramids[0].names:
        tokens = torch.cat([pyramid[name].spans.lengths for pyramid in pyramids]).float().mean()
        row: tuple[str, ...] = (name, f"{tokens:.4g}", "", "", "")
        if name in pyramids[0].groups:
            sizes = torch.cat([pyramid.groups[name].lengths for pyramid in pyramids])
            row = (*row[:2], f"{sizes.float().mean():.3g}", str(int(sizes.min())), str(int(sizes.max())))
        rows.append(row)
    return rows


def draw_grids(drawn: list[tuple[Sample, View, Pyramid]]) -> Figure:
    """A row a sample, a column a level."""
    names = drawn[0][2].names
    tall = max(rows / columns for rows, columns in (view.shape for _, view, _ in drawn))
    width = 2.3
    figure, grid = panels(len(drawn), len(names), width=width, height=width * min(1.5, max(0.5, tall)) + 0.35)
    for row, (sample, view, pyramid) in zip(grid, drawn, strict=True):
        cells = cells_of_levels(pyramid)
        for axes, name in zip(row, names, strict=True):
            view.draw(axes)
            count = len(cells[name])
            view.outline(axes, cells[name], width=0.5 if count > 150 else 0.9 if count > 40 else 1.6)
            axes.set_title(f"{name}: {count} token{'s' if count > 1 else ''}")
        row[0].set_ylabel(fill(_label(sample), WRAPPED), rotation=0, ha="right", va="center")
    return figure


def draw_runs(drawn: list[tuple[Sample, View, Pyramid]]) -> Figure:
    """A panel a sample with a strip a level under it."""
    names = drawn[0][2].names
    figure, grid = panels(2 * len(drawn), 1, width=8.0, height=0.75 + 0.08 * len(names))
    for place, (sample, view, pyramid) in enumerate(drawn):
        above, below = grid[2 * place, 0], grid[2 * place + 1, 0]
        view.draw(above)
        above.set_title(_label(sample) or f"sample {place + 1}", loc="left")
        above.set_xticks([])
        _strips(below, cells_of_levels(pyramid), above.get_xlim())
    grid[-1, 0].set_xlabel("level-0 tokens")
    return figure


def _strips(axes: Axes, cells: dict[str, Spans], limits: tuple[float, float]) -> None:
    """The tokens of each level within the limits as bars, in two shades by turns."""
    for place, spans in enumerate(cells.values()):
        shown = int((spans.host[:-1] < limits[1]).sum())
        starts, lengths = spans.host[:shown].tolist(), spans.lengths[:shown].tolist()
        color = COLORS[place % len(COLORS)]
        bars = axes.barh([place] * len(starts), lengths, left=starts, height=0.8, color=color)
        for rank, bar in enumerate(bars):
            bar.set_alpha(0.85 if rank % 2 else 0.45)
    axes.set_yticks(range(len(cells)), [f"{name}: {len(spans)}" for name, spans in cells.items()])
    axes.set_xlim(*limits)
    axes.set_ylim(len(cells) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, colors=LINE)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _label(sample: Sample) -> str:
    if sample.label is None:
        return ""
    parts = sample.label if isinstance(sample.label, list | tuple) else [sample.label]
    text = f"label {' '.join(map(str, parts))}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]}.."
