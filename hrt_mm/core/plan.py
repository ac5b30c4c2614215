"""The partitions of one level: its samples, its windows and its groups, made once a batch for all of its layers.

Shapes: T tokens of the level, C axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import grids as nested
from .errors import UserError
from .host import on_host
from .levels import FixedGroups, GivenGroups, LearnedGroups, Level, extent
from .rope import FLOAT32_RANGE
from .segments import limit_group_length
from .spans import Spans
from .tokens import Tokens

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class GridPlan:
    """The samples' cells at a level, and the blocks that they are ordered by, in that level's cells."""

    shapes: tuple[Sizes, ...]
    blocks: tuple[Sizes, ...]

    def runs(self, size: Sizes, device: torch.device) -> Spans:
        """Cells that share a block of ``size``."""
        return Spans.from_lengths(self._each(nested.block_lengths, size), device)

    def block_positions(self, size: Sizes, device: torch.device) -> Tensor:
        """(T,) rank that each cell has in a block without missing cells, so that a border leaves places empty."""
        inner = tuple(block for block in self.blocks if math.prod(block) < math.prod(size))
        rank = nested.nested_order(size, inner).argsort()
        return rank[self._each(nested.block_positions, size)].to(device)

    def _each(self, function: Callable[[Sizes, tuple[Sizes, ...], Sizes], Tensor], size: Sizes) -> Tensor:
        if len(set(self.shapes)) == 1:
            return function(self.shapes[0], self.blocks, size).repeat(len(self.shapes))
        return torch.cat([function(shape, self.blocks, size) for shape in self.shapes])

    @on_host
    def coarser(self, stride: Sizes) -> GridPlan:
        """The grid of the groups."""
        shapes = {shape: nested.coarse_shape(shape, stride) for shape in set(self.shapes)}
        divided = (tuple(b // s for b, s in zip(block, stride, strict=True)) for block in self.blocks)
        return GridPlan(
            tuple(shapes[shape] for shape in self.shapes), tuple(block for block in divided if math.prod(block) > 1)
        )


@dataclass(frozen=True, eq=False)
class Groups:
    """A partition of a level's tokens into the groups that become the next level's.

    Args:
        spans: the groups.
        samples: the samples, counted in groups.
        group_size: places that a group of usual size has.
        cell_position_T: place of each token in its group where that is not its rank: cells of a grid that has borders.
    """

    spans: Spans
    samples: Spans
    group_size: int
    cell_position_T: Tensor | None = None

    @property
    def position_in_group_T(self) -> Tensor:
        """(T,) the position of each token: its place, and in groups longer than ``group_size`` stretched over them."""
        if self.cell_position_T is not None:
            return self.cell_position_T
        return self.spans.cached(("position", self.group_size), self._ranks)

    def _ranks(self) -> Tensor:
        place_T = self.spans.positions
        if self.spans.max_seqlen <= self.group_size:
            return place_T
        size_T = self.spans.counts[self.spans.ids]
        return torch.where(size_T > self.group_size, place_T * self.group_size // size_T, place_T)


@dataclass(frozen=True, eq=False)
class LevelPlan:
    """What a level needs to know of its batch.

    Args:
        level: its configuration.
        samples: the samples at this level.
        coords_TC: positions, in level-0 steps.
        unit: level-0 steps a token of this level, along each axis.
        grid: where the samples still are grids.
        boundaries: given group starts by name, on the host.
        lowest: the plan of level 0; absent there.
    """

    level: Level
    samples: Spans
    coords_TC: Tensor
    unit: tuple[float, ...]
    grid: GridPlan | None
    boundaries: Mapping[str, Tensor]
    lowest: LevelPlan | None = None

    @classmethod
    @on_host
    def of(cls, tokens: Tokens, level: Level, blocks: tuple[Sizes, ...]) -> LevelPlan:
        """The plan of level 0."""
        if tokens.axes > 1 and tokens.grids is None:
            raise UserError(f"tokens on {tokens.axes} axes must be grids in hierarchical order; set Tokens.grids")
        grid = GridPlan(tokens.grids, blocks) if tokens.grids is not None and tokens.axes > 1 else None
        unit = (1.0,) * tokens.axes
        coords_TC = tokens.coords_TC
        if tokens.x.dtype == torch.float64 or tokens.spans.max_seqlen > FLOAT32_RANGE:
            # Means of them are then exact as well.
            coords_TC = coords_TC.double()
        return cls(level, tokens.spans, coords_TC, unit, grid, tokens.boundaries)

    @property
    def device(self) -> torch.device:
        """Where the tokens live."""
        return self.coords_TC.device

    @property
    def unit_C(self) -> Tensor:
        """(C,) ``unit`` on the device."""
        return self.samples.cached(("unit", self.unit), lambda: torch.tensor(self.unit, device=self.device))

    @property
    def origin_BC(self) -> Tensor:
        """(B, C) where each sample begins: the position of its first level-0 token; any position for an empty one."""
        plan = self.lowest or self
        first_B = plan.samples.cu_seqlens[:-1].long().clamp(max=max(0, len(plan.coords_TC) - 1))
        return (
            plan.coords_TC[first_B] if len(plan.coords_TC) else plan.coords_TC.new_zeros(len(first_B), len(self.unit))
        )

    @on_host
    def layer_spans(self, layers: int) -> list[Spans]:
        """The runs that attend within themselves, for each layer."""
        return [self.attention_spans(layer) for layer in range(layers)]

    def attention_spans(self, layer: int) -> Spans:
        """The runs that attend within themselves at a layer."""
        window, kind = self.level.window, self.level.window_type
        if window is None or kind == "sliding":
            return self.samples
        return self.samples.cached(("attention", kind, window, layer % 2, self.grid), lambda: self._windows(layer))

    def _windows(self, layer: int) -> Spans:
        if self.grid is not None:
            assert self.level.window is not None
            return self.grid.runs(extent(self.level.window, len(self.unit), "window"), self.device)
        size = self._window_size()
        shifted = self.level.window_type == "shifted" and layer % 2
        return self.samples.cut(size, size // 2 if shifted else 0)

    @on_host
    def cross_scale_spans(self) -> Spans:
        """The blocks that bound what other levels see of this one: its windows, or pieces as long as a sliding one."""
        if self.level.window is None:
            return self.samples
        if self.level.window_type == "sliding":
            return self.samples.cut(self._window_size())
        return self.attention_spans(0)

    @property
    def sliding_window(self) -> int | None:
        """The sliding window, where the level has one."""
        return self._window_size() if self.level.window_type == "sliding" else None

    def _window_size(self) -> int:
        """The window in tokens, where there is no grid."""
        window = self.level.window_tokens
        assert window is not None
        return window

    @on_host
    def fixed_groups(self, config: FixedGroups) -> Groups:
        """Groups by stride.

        Raises:
            UserError: a stride for several axes where the tokens are no grid.
        """
        if self.grid is None:
            if not isinstance(config.stride, int) and len(config.stride) > 1:
                raise UserError(
                    f"level {self.level.name!r} has stride {config.stride} but its tokens are no grid; give one number"
                )
            stride = config.stride if isinstance(config.stride, int) else config.stride[0]
            spans = self.samples.cut(stride)
            return Groups(spans, self.samples.coarsen(spans), stride)
        size = extent(config.stride, len(self.unit), "stride")
        spans = self.grid.runs(size, self.device)
        cell_position_T = None if spans.uniform == math.prod(size) else self.grid.block_positions(size, self.device)
        return Groups(spans, self.samples.coarsen(spans), math.prod(size), cell_position_T)

    @on_host
    def given_groups(self, config: GivenGroups) -> Groups:
        """Groups that the data supplies.

        Raises:
            UserError: the tokens carry no such boundary.
        """
        check_boundary(self.level, config, self.boundaries)
        starts_T = self.boundaries[config.boundary]
        if config.max is not None:
            first = self.samples.host[:-1]
            starts_T = starts_T.clone()
            starts_T[first[first < self.samples.total]] = True
            starts_T = limit_group_length(starts_T, config.max)
        spans, samples = Spans.from_starts(starts_T, self.samples)
        return Groups(spans, samples, config.max or 16)

    @on_host
    def routed_groups(self, starts_T: Tensor, config: LearnedGroups) -> Groups:
        """Groups that the model chose. On a GPU this is the one place that waits for the device: once a batch."""
        spans, samples = Spans.from_starts(starts_T, self.samples)
        return Groups(spans, samples, config.max)

    def coarser(
        self,
        level: Level,
        groups: Groups,
        coords_GC: Tensor,
        stride: tuple[float, ...],
        *,
        gridded: bool,
        ahead: bool = False,
    ) -> LevelPlan:
        """The plan of the next level.

        Args:
            level: its configuration.
            groups: what its tokens are.
            coords_GC: where they lie.
            stride: tokens a group along each axis, usually.
            gridded: the groups are blocks of the grid.
            ahead: a group's token stands for it from its first token on, when what starts later in it is not known.
        """
        unit = tuple(a * b for a, b in zip(self.unit, stride, strict=True))
        grid = self.grid.coarser(tuple(int(size) for size in stride)) if gridded and self.grid is not None else None
        boundaries = {name: _coarse_starts(mask, groups, inclusive=ahead) for name, mask in self.boundaries.items()}
        return LevelPlan(level, groups.samples, coords_GC, unit, grid, boundaries, self.lowest or self)


def check_boundary(level: Level, config: GivenGroups, boundaries: Mapping[str, Tensor]) -> None:
    """Checks that the boundary that a level groups by is there.

    Raises:
        UserError: the tokens carry no such boundary.
    """
    if config.boundary not in boundaries:
        raise UserError(
            f"level {level.name!r} groups by boundary {config.boundary!r}, which the tokens do not carry; "
            f"they carry: {', '.join(sorted(boundaries)) or 'none'}"
        )


def reporting_group(group_T: np.ndarray, begins_T: np.ndarray, *, inclusive: bool) -> np.ndarray:
    """(T,) the first group whose token can tell that a given group starts at a token: that token's group.

    Where a group's token is made from the group's first token alone, it can tell nothing of the later ones, and the
    next group's token is the first that can.

    Args:
        group_T: the group of each token.
        begins_T: bool, whether each token is the first of its group.
        inclusive: tokens of groups are made from first tokens alone.
    """
    return group_T + ~begins_T if inclusive else group_T


def _coarse_starts(starts_T: Tensor, groups: Groups, *, inclusive: bool) -> Tensor:
    """(G,) whether a given group starts at each token of the next level."""
    first_G = groups.spans.host[:-1].numpy()
    rows = np.flatnonzero(starts_T.numpy())
    # Groups are not empty here, so the last one that begins up to a row holds it.
    group = np.searchsorted(first_G, rows, "right") - 1
    reporting = reporting_group(group, first_G[group] == rows, inclusive=inclusive)
    # In the last group of a sample there may be no group to tell; the following one is another sample's.
    ends = groups.samples.host[1:].numpy()
    within = reporting < ends[np.searchsorted(ends, group, "right")]
    flags_G = np.zeros(len(first_G), dtype=bool)
    flags_G[reporting[within]] = True
    return torch.from_numpy(flags_G)
