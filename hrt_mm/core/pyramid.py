"""The output of a hierarchy: tokens of every level, pooled vectors and feature maps.

Shapes: B samples, T tokens of a level, D its width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import grids as nested
from .errors import UserError
from .routing import Routing
from .segments import segment_mean
from .spans import Spans
from .tokens import Tokens


@dataclass(frozen=True, eq=False)
class Pyramid:
    """The levels of a batch.

    Args:
        names: level names, from fine to coarse.
        tokens: normalized tokens by level name.
        groups: groups of the tokens by level name; none for the last level.
        blocks: nested block sizes of the grid by level name.
        losses: weighted auxiliary losses by name, to be added to the loss of a task.
        stats: scalar statistics by name.
        routings: the boundaries of learned groups by level name.
    """

    names: tuple[str, ...]
    tokens: dict[str, Tokens]
    groups: dict[str, Spans] = field(default_factory=dict)
    blocks: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)
    routings: dict[str, Routing] = field(default_factory=dict)

    def name(self, level: str | int | None) -> str:
        """The name of a level, given by name or index; the coarsest level for ``None``.

        Raises:
            UserError: there is no such level.
        """
        if level is None:
            return self.names[-1]
        if isinstance(level, int) and -len(self.names) <= level < len(self.names):
            return self.names[level]
        if level in self.names:
            return str(level)
        raise UserError(f"unknown level {level!r}; one of {', '.join(self.names)}")

    def __getitem__(self, level: str | int) -> Tokens:
        """The tokens of a level."""
        return self.tokens[self.name(level)]

    def pooled(self, level: str | int | None = None) -> Tensor:
        """(B, D) mean of the tokens of each sample at a level; the coarsest by default."""
        tokens = self.tokens[self.name(level)]
        return segment_mean(tokens.x, tokens.spans)

    def maps(self, level: str | int | None = None) -> list[Tensor]:
        """Feature maps of each sample in raster order, channels first: (D, t), (D, h, w) or (D, t, h, w)."""
        name = self.name(level)
        tokens = self.tokens[name]
        if tokens.grids is None:
            return [x_TD.T for x_TD in tokens.split()]
        maps = []
        for x_TD, shape in zip(tokens.split(), tokens.grids, strict=True):
            # Row i is the cell with raster index order[i], so scattering the rows undoes the hierarchical order.
            order = nested.nested_order(shape, self.blocks.get(name, ())).to(x_TD.device)
            raster_TD = torch.empty_like(x_TD).index_copy(0, order, x_TD)
            # (T, D) to (D, T), then T to the axes of the grid.
            maps.append(raster_TD.T.unflatten(1, shape))
        return maps
