"""Report section: samples with their groups at each level."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import torch

from ...core.pyramid import Pyramid
from ...data.capabilities import Timelined, seconds_per_token
from ...data.sample import Sample
from .page import Page
from .style import LINE, panels
from .subject import Subject
from .timeline import draw_timeline, recognized
from .view import View, cells_of_levels, draw_level_bars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_SAMPLES = 3
"""Number of samples to draw."""
MAX_LABEL, LINE_WIDTH = 80, 20
"""Maximum characters of a label, and of a line of it beside a figure."""


def groups_section(subject: Subject, page: Page) -> None:
    """Draws some samples at each level, and lists the number of tokens of each level."""
    page.heading("Groups")
    drawn = []
    for sample, view in subject.views(NUM_SAMPLES):
        with torch.no_grad():
            pyramid = subject.encoder(view.tokens.to(subject.device))
        drawn.append((sample, view, pyramid))
    seconds = seconds_per_token(subject.tokenizer)
    if seconds is not None and not drawn[0][1].gridded:
        _timelines(subject, page, drawn, seconds)
    else:
        figure = draw_grids(drawn) if drawn[0][1].gridded else draw_runs(drawn)
        caption = "Samples at each level. Lines are the borders between tokens."
        page.picture("groups", figure, caption)
    page.table(
        ("level", "tokens per sample", "tokens per group (mean)", "shortest", "longest"),
        group_sizes([pyramid for _, _, pyramid in drawn]),
    )


def _timelines(subject: Subject, page: Page, drawn: list[tuple[Sample, View, Pyramid]], seconds: float) -> None:
    """A figure for each sample."""
    for number, (sample, view, pyramid) in enumerate(drawn, 1):
        with torch.no_grad():
            predictions = recognized(subject.run.task, pyramid, seconds)
        modality = subject.modality
        annotated = modality.timeline(sample.value) if issubclass(modality, Timelined) else {}
        figure = draw_timeline(view, pyramid, seconds, annotated, predictions, sample.name)
        caption = "A sample with the groups of every level: lines over it, the coarser the taller, and bars below it"
        beside = [
            what for what, parts in (("its annotations", annotated), ("what was recognized", predictions)) if parts
        ]
        page.picture(f"groups-{number}", figure, f"{caption}{', with ' * bool(beside)}{' and '.join(beside)}.")


def group_sizes(pyramids: list[Pyramid]) -> list[tuple[str, ...]]:
    """A row for each level: tokens per sample, and per group of the next level."""
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
    """A row for each sample, a column for each level."""
    names = drawn[0][2].names
    tall = max(rows / columns for rows, columns in (view.shape for _, view, _ in drawn))
    width = 2.3
    figure, grid = panels(len(drawn), len(names), width=width, height=width * min(1.5, max(0.5, tall)) + 0.35)
    for row, (sample, view, pyramid) in zip(grid, drawn, strict=True):
        cells = cells_of_levels(pyramid)
        for axes, name in zip(row, names, strict=True):
            view.draw(axes)
            count = len(cells[name])
            # Thick lines between many tokens would cover the sample.
            view.outline(axes, cells[name], width=0.5 if count > 150 else 0.9 if count > 40 else 1.6)
            axes.set_title(f"{name}: {count} token{'s' if count > 1 else ''}")
        row[0].set_ylabel(fill(_label(sample), LINE_WIDTH), rotation=0, ha="right", va="center")
    return figure


def draw_runs(drawn: list[tuple[Sample, View, Pyramid]]) -> Figure:
    """A panel for each sample, with a strip for each level below it."""
    names = drawn[0][2].names
    figure, grid = panels(2 * len(drawn), 1, width=8.0, height=0.75 + 0.08 * len(names))
    for row, (sample, view, pyramid) in enumerate(drawn):
        above, below = grid[2 * row, 0], grid[2 * row + 1, 0]
        view.draw(above)
        above.set_title(_label(sample) or f"sample {row + 1}", loc="left")
        above.set_xticks([])
        cells, limits = cells_of_levels(pyramid), above.get_xlim()
        draw_level_bars(below, cells, limits[1])
        below.set_yticks(range(len(cells)), [f"{name}: {len(spans)}" for name, spans in cells.items()])
        below.set_xlim(*limits)
        below.set_ylim(len(cells) - 0.5, -0.5)
        below.tick_params(axis="y", length=0, colors=LINE)
        for spine in below.spines.values():
            spine.set_visible(False)
    grid[-1, 0].set_xlabel("level-0 tokens")
    return figure


def _label(sample: Sample) -> str:
    if sample.label is None:
        return ""
    parts = sample.label if isinstance(sample.label, list | tuple) else [sample.label]
    text = f"label {' '.join(map(str, parts))}"
    return text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 2]}.."
