"""Report section: attention maps of each level, and attention distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...core.pyramid import Pyramid
from ...core.spans import Spans
from .attention import Layer, recorded
from .page import Page
from .style import GREY, ORANGE, bare, heat_map, panels
from .subject import Subject
from .view import View, cells_of_levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_TOKENS = 192
"""Maximum tokens of a level in a matrix."""
COLUMNS = 4
"""Maximum blocks of a level to draw."""


@dataclass(frozen=True, eq=False)
class Look:
    """One sample with the attention of all blocks.

    Args:
        view: the sample.
        pyramid: its levels.
        layers: attention of the blocks.
        cells: level-0 tokens under each token, by level.
    """

    view: View
    pyramid: Pyramid
    layers: list[Layer]
    cells: dict[str, Spans]

    @property
    def levels(self) -> list[int]:
        """Indices of the levels with blocks and more than one token."""
        names = self.pyramid.names
        return [level for level, name in enumerate(names) if self.of(level) and self.pyramid[name].spans.total > 1]

    def of(self, level: int) -> list[Layer]:
        """The blocks of a level to draw: the first, the last and some in between."""
        layers = [layer for layer in self.layers if layer.level == level]
        if len(layers) <= COLUMNS:
            return layers
        return [layers[round(index)] for index in np.linspace(0, len(layers) - 1, COLUMNS)]


def attention_section(subject: Subject, page: Page) -> None:
    """Draws the attention of one sample."""
    ((sample, view),) = subject.views(1)
    look = look_at(subject, view)
    if not look.levels:
        return
    page.heading("Attention")
    named = f"sample {sample.name!r}" if sample.name else "one sample"
    if view.gridded:
        token = salient(view.tokens.x)
        caption = (
            f"What one token of each level attends to, in {named}. Left: the token, framed in blue. Then, for its "
            "blocks, its attention weights over the tokens of its level: darker is higher, grey is outside of the "
            "window (mean over heads, each figure on its own scale)."
        )
        page.picture("attention", draw_maps(look, token), caption)
    else:
        caption = (
            f"Attention of each level in {named}: queries from top to bottom, keys from left to right, mean over "
            f"heads, each row on its own scale; the first {MAX_TOKENS} tokens at most."
        )
        page.picture("attention", draw_matrices(look), caption)
    caption = (
        "Attention distance, in level-0 tokens: the distance to attended tokens, weighted by attention, beside that of "
        "uniform attention over all visible tokens."
    )
    page.picture("attention_distance", draw_distances(look), caption)


def look_at(subject: Subject, view: View) -> Look:
    """Runs one sample and records its attention."""
    encoder = subject.encoder
    with torch.no_grad(), recorded(encoder.hierarchy) as layers:
        pyramid = encoder(view.tokens.to(subject.device))
    return Look(view, pyramid, layers, cells_of_levels(pyramid))


def salient(x: Tensor) -> int:
    """The token that differs most from the sample's mean; the middle one where tokens are ids."""
    if not x.is_floating_point():
        return len(x) // 2
    # A token like all others, such as blank background, attends to nothing in particular.
    features = x.flatten(1)
    return int((features - features.mean(0)).norm(dim=1).argmax())


def draw_maps(look: Look, token: int) -> Figure:
    """A row for each level: its token over a level-0 token, and what that attends to in each block."""
    levels = look.levels
    rows, columns = look.view.shape
    size = 2.1
    height = size * min(1.6, max(0.5, rows / columns)) + 0.35
    figure, grid = panels(len(levels), 1 + max(len(look.of(level)) for level in levels), width=size, height=height)
    for row, level in zip(grid, levels, strict=True):
        name = look.pyramid.names[level]
        cells, layers = look.cells[name], look.of(level)
        query = int(torch.searchsorted(cells.host, token, right=True)) - 1
        look.view.draw(row[0])
        look.view.frame(row[0], cells, query)
        row[0].set_title(f"{name}: token {query + 1} of {len(cells)}")
        for axes, layer in zip(row[1:], layers, strict=False):
            weights = layer.weights(query)
            look.view.draw(axes)
            look.view.heat(axes, weights[cells.ids])
            look.view.frame(axes, cells, query)
            axes.set_title(f"{layer.name}, at most {float(weights.max()):.0%}")
        for axes in row[1 + len(layers) :]:
            axes.set_visible(False)
    return figure


def draw_matrices(look: Look) -> Figure:
    """A row for each level: the attention matrices of its blocks."""
    levels = look.levels
    figure, grid = panels(len(levels), max(len(look.of(level)) for level in levels), width=2.5, height=2.6)
    for row, level in zip(grid, levels, strict=True):
        layers = look.of(level)
        for axes, layer in zip(row, layers, strict=False):
            _matrix(axes, layer.matrix(MAX_TOKENS))
            axes.set_title(layer.name if layer is not layers[0] else f"{look.pyramid.names[level]}: {layer.name}")
        for axes in row[len(layers) :]:
            axes.set_visible(False)
    return figure


def _matrix(axes: Axes, weights: Tensor) -> None:
    values = weights.numpy()
    # Each row on its own scale, or queries that attend uniformly to many tokens would look blank.
    scaled = values / np.maximum(values.max(1, keepdims=True), 1e-12)
    axes.imshow(np.where(values > 0, scaled, np.nan), cmap=heat_map(), vmin=0, vmax=1)
    bare(axes)
    for spine in axes.spines.values():
        spine.set_visible(True)


def draw_distances(look: Look) -> Figure:
    """Mean attention distance of each block."""
    labels, attended, uniform = [], [], []
    for layer in (layer for layer in look.layers if layer.level in look.levels):
        name = look.pyramid.names[layer.level]
        distance, baseline = layer.distances(look.pyramid[name].coords_TC)
        labels.append(f"{name}, {layer.name}")
        attended.append(distance)
        uniform.append(baseline)
    figure, grid = panels(1, 1, width=6.5, height=0.9 + 0.28 * len(labels))
    axes: Axes = grid[0, 0]
    ys = np.arange(len(labels))[::-1]
    axes.hlines(ys, attended, uniform, color=GREY, linewidth=1)
    axes.plot(uniform, ys, "|", color=GREY, markersize=11, markeredgewidth=2, label="uniform attention")
    axes.plot(attended, ys, "o", color=ORANGE, markersize=6, label="attention")
    axes.set_yticks(ys, labels)
    axes.set_xlim(left=0)
    axes.set_xlabel("mean distance, level-0 tokens")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=2)
    return figure
