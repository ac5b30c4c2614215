"""What a hierarchy gives: the tokens of every level, pooled vectors, and maps.

Shapes: B samples, T tokens of a level, D its width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import grids as nested
from .errors import UserError
from .segments import segment_mean
from .spans import Spans
from .tokens import Tokens


@dataclass(frozen=True, eq=False)
class Pyramid:
    """The levels of a batch.

    Args:
        names: of the levels, fine to coarse.
        tokens: by name, the level's tokens after a norm.
        groups: by name, how the level's tokens are grouped; the last level has none.
        blocks: by name, the blocks that the level's grid is ordered by.
        losses: auxiliary losses by name, weighted; a task adds them to its own.
        stats: measured scalars by name.
    """

    names: tuple[str, ...]
    tokens: dict[str, Tokens]
    groups: dict[str, Spans] = field(default_factory=dict)
    blocks: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)

    def name(self, level: str | int | None) -> str:
        """The name of a level given by name or place; the coarsest for ``None``.

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
        """(B, D) the mean of each sample's tokens at a level, the coarsest where none is named."""
        tokens = self.tokens[self.name(level)]
        return segment_mean(tokens.x, tokens.spans)

    def maps(self, level: str | int | None = None) -> list[Tensor]:
        """The tokens of each sample in raster order, channels first: (D, t), (D, h, w) or (D, t, h, w)."""
        name = self.name(level)
        tokens = self.tokens[name]
        parts = tokens.split()
        if tokens.grids is None:
            return [part.T for part in parts]
        return [self._raster(part, shape, name) for part, shape in zip(parts, tokens.grids, strict=True)]

    def _raster(self, x_TD: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
        order = nested.nested_order(shape, self.blocks.get(name, ())).to(x_TD.device)
        raster_TD = torch.empty_like(x_TD).index_copy(0, order, x_TD)
        return raster_TD.T.unflatten(1, shape)
