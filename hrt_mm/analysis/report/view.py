"""Drawing a sample. Level-0 tokens are unit cells: along x in one dimension, rows and columns on a grid.

The modality draws the sample itself. Groups and weights are drawn over it here, for all modalities.
Shapes: T level-0 tokens, C axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ...core.pyramid import Pyramid
from ...core.spans import Spans
from ...core.tokens import Tokens
from ...data.tokenizer import Tokenizer
from .style import BLUE, COLORS, GREY, LINE, ORANGE, bare, heat_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Backdrop: TypeAlias = "Callable[[Axes, Tokenizer, Tokens], None]"
"""Draws one sample from its raw tokens. In one dimension it may restrict the range of x."""


@dataclass(frozen=True, eq=False)
class View:
    """One sample to draw.

    Args:
        tokenizer: of the modality.
        tokens: raw tokens of the sample, on the host.
        backdrop: draws the sample; by default the raw tokens are drawn.
    """

    tokenizer: Tokenizer
    tokens: Tokens
    backdrop: Backdrop | None = None

    @property
    def gridded(self) -> bool:
        """Whether cells have rows and columns."""
        return self.tokens.axes > 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns. With more than two axes, the middle of the leading ones is drawn."""
        if not self.gridded:
            return 1, self.tokens.spans.total
        assert self.tokens.grids is not None
        rows, columns = self.tokens.grids[0][-2:]
        return rows, columns

    def raster(self, values_T: Tensor) -> np.ndarray:
        """(rows, columns) the values of level-0 tokens as an image; NaN where there is no token."""
        image = np.full(self.shape, np.nan)
        values = values_T.detach().float().cpu().numpy()
        if not self.gridded:
            image[0] = values
            return image
        assert self.tokens.grids is not None
        cells_TC = self.tokens.coords_TC.long().cpu().numpy()
        middle = np.array([size // 2 for size in self.tokens.grids[0][:-2]], dtype=np.int64)
        visible = (cells_TC[:, :-2] == middle).all(1)
        image[cells_TC[visible, -2], cells_TC[visible, -1]] = values[visible]
        return image

    def draw(self, axes: Axes) -> None:
        """Draws the sample."""
        rows, columns = self.shape
        axes.set_xlim(0, columns)
        if self.backdrop is not None:
            self.backdrop(axes, self.tokenizer, self.tokens)
        elif self.gridded:
            x = self.tokens.x.float()
            image = self.raster(x.flatten(1).mean(1) if x.ndim > 1 else x)
            axes.imshow(image, cmap="gray", extent=(0, columns, rows, 0))
        else:
            _draw_series(axes, self.tokens.x)
        if self.gridded:
            # Again, as the modality may have drawn in other limits, such as pixels.
            axes.set_xlim(0, columns)
            axes.set_ylim(rows, 0)
            axes.set_aspect("equal")
            bare(axes)

    def outline(self, axes: Axes, cells: Spans, *, color: str = ORANGE, width: float = 1.2) -> None:
        """Draws lines between the tokens of a level.

        Args:
            axes: that the sample is drawn on.
            cells: level-0 tokens under each token of the level.
            color: of the lines.
            width: of the lines, in points.
        """
        labels = self.raster(cells.ids)
        if not self.gridded:
            for border in np.flatnonzero(np.diff(labels[0])) + 1:
                axes.axvline(float(border), color=color, linewidth=width)
            return
        _lines(axes, _borders(labels, outside=-1), color, width)

    def frame(self, axes: Axes, cells: Spans, token: int, *, color: str = BLUE, width: float = 2.0) -> None:
        """Draws a line around one token of a level; arguments as in :meth:`outline`."""
        mask = self.raster((cells.ids == token).float())
        if not self.gridded:
            axes.axvspan(*cells.host[token : token + 2].tolist(), fill=False, edgecolor=color, linewidth=width)
            return
        _lines(axes, _borders(mask, outside=0), color, width)

    def heat(self, axes: Axes, weights_T: Tensor) -> None:
        """Draws a weight for each level-0 token over the sample, grey where it is 0."""
        values = self.raster(weights_T)
        relative = np.nan_to_num(values / max(np.nanmax(values), 1e-12))
        self._cover(axes, np.where(relative[..., None] > 0, heat_map()(relative), [0.9, 0.9, 0.9, 1]))

    def hide(self, axes: Axes, hidden_T: Tensor) -> None:
        """Covers some level-0 tokens in grey."""
        hidden = self.raster(hidden_T.float()) > 0
        self._cover(axes, np.where(hidden[..., None], [0.8, 0.8, 0.8, 1], [0, 0, 0, 0]))

    def _cover(self, axes: Axes, colors: np.ndarray) -> None:
        """Draws (rows, columns, 4) colours over the cells."""
        rows, columns = self.shape
        low, high = (rows, 0) if self.gridded else axes.get_ylim()
        aspect: Literal["equal", "auto"] = "equal" if self.gridded else "auto"
        # Above the sample and its lines (2), and below the outlines of groups (3).
        axes.imshow(colors, extent=(0, columns, low, high), aspect=aspect, zorder=2.5)


def one_sample(tokens: Tokens, index: int) -> Tokens:
    """One sample of a batch, on the host."""
    first, last = tokens.spans.host[index : index + 2].tolist()
    return Tokens(
        tokens.x[first:last].cpu(),
        Spans.from_lengths([last - first]),
        tokens.coords_TC[first:last].cpu(),
        grids=tokens.grids[index : index + 1] if tokens.grids is not None else None,
        boundaries={name: starts_T[first:last] for name, starts_T in tokens.boundaries.items()},
    )


def cells_of_levels(pyramid: Pyramid) -> dict[str, Spans]:
    """The level-0 tokens under each token, by level name."""
    offsets = torch.arange(pyramid[0].spans.total + 1)
    cells = {}
    for name in pyramid.names:
        cells[name] = Spans(offsets)
        if name in pyramid.groups:
            offsets = offsets[pyramid.groups[name].host]
    return cells


def draw_level_bars(axes: Axes, cells: Mapping[str, Spans], limit: float) -> None:
    """Draws the tokens of each level up to a level-0 token as a row of bars, in alternating shades."""
    for row, spans in enumerate(cells.values()):
        visible = int((spans.host[:-1] < limit).sum())
        starts, lengths = spans.host[:visible].tolist(), spans.lengths[:visible].tolist()
        bars = axes.barh([row] * visible, lengths, left=starts, height=0.8, color=COLORS[row % len(COLORS)])
        for index, bar in enumerate(bars):
            bar.set_alpha(0.85 if index % 2 else 0.45)


def _lines(axes: Axes, segments: np.ndarray, color: str, width: float) -> None:
    from matplotlib.collections import LineCollection

    lines = LineCollection(list(segments), colors=color, linewidths=width, capstyle="round", zorder=3, clip_on=False)
    axes.add_collection(lines)


def _borders(labels: np.ndarray, outside: float) -> np.ndarray:
    """(lines, 2, 2) segments between cells whose labels differ. Everything around the cells has label ``outside``."""
    # NaN differs from itself, so every cell without a token would get a border.
    framed = np.pad(np.nan_to_num(labels, nan=outside), 1, constant_values=outside)
    beside = np.argwhere(framed[1:-1, 1:] != framed[1:-1, :-1])
    above = np.argwhere(framed[1:, 1:-1] != framed[:-1, 1:-1])
    vertical = [[(column, row), (column, row + 1)] for row, column in beside]
    horizontal = [[(column, row), (column + 1, row)] for row, column in above]
    return np.array(vertical + horizontal, dtype=float).reshape(-1, 2, 2)


def _draw_series(axes: Axes, x: Tensor) -> None:
    """Draws raw tokens along x: a line for one feature or for ids, an image for several features."""
    features = x.detach().float().cpu().reshape(len(x), -1).numpy()
    count, width = features.shape
    if width == 1:
        axes.step(np.arange(count + 1), np.append(features[:, 0], features[-1, 0]), where="post", color=LINE)
    else:
        axes.imshow(features.T, aspect="auto", cmap="gray", extent=(0, count, width, 0))
        axes.set_yticks([])
    axes.tick_params(colors=GREY)
