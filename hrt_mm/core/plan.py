"""The partitions of one level into samples, windows and groups, planned once per batch for all of its layers.

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
from .dense import DenseSpans, DenseTokens
from .errors import UserError
from .host import on_host
from .levels import FixedGroups, GivenGroups, LearnedGroups, Level, extent
from .rope import FLOAT32_RANGE
from .segments import limit_group_length, segment_first
from .spans import Spans
from .tokens import Tokens

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class GridPlan:
    """The grids of a level.

    Args:
        shapes: of each sample, in cells of the level.
        blocks: nested block sizes of their hierarchical order, in cells of the level.
    """

    shapes: tuple[Sizes, ...]
    blocks: tuple[Sizes, ...]

    def runs(self, size: Sizes, samples: Spans) -> Spans:
        """The blocks of ``size``, each a run of cells, computed once per batch."""
        return samples.cached(
            ("blocks", size, self),
            lambda: Spans.from_lengths(self._per_sample(nested.block_lengths, size), samples.device),
        )

    def block_positions(self, size: Sizes, device: torch.device) -> Tensor:
        """(T,) position of each cell among those of a complete block, also where the border cuts the block off."""
        inner = tuple(block for block in self.blocks if math.prod(block) < math.prod(size))
        # nested_order lists raster positions in hierarchical order; its argsort is the inverse permutation, which turns
        # the raster position of a cell in its block into the position in hierarchical order.
        position = nested.nested_order(size, inner).argsort()
        return position[self._per_sample(nested.block_positions, size)].to(device)

    def _per_sample(self, function: Callable[[Sizes, tuple[Sizes, ...], Sizes], Tensor], size: Sizes) -> Tensor:
        if len(set(self.shapes)) == 1:  # without a loop over samples, in the common case
            return function(self.shapes[0], self.blocks, size).repeat(len(self.shapes))
        return torch.cat([function(shape, self.blocks, size) for shape in self.shapes])

    @on_host
    def coarser(self, stride: Sizes) -> GridPlan:
        """The grids of the groups, in blocks of ``stride``."""
        # Batches often have few different shapes, so each one is computed once.
        shapes = {shape: nested.coarse_shape(shape, stride) for shape in set(self.shapes)}
        # Blocks up to the stride become single cells or less, and drop out.
        divided = (tuple(b // s for b, s in zip(block, stride, strict=True)) for block in self.blocks)
        return GridPlan(
            tuple(shapes[shape] for shape in self.shapes), tuple(block for block in divided if math.prod(block) > 1)
        )


@dataclass(frozen=True, eq=False)
class DenseGrid(GridPlan):
    """Grids of one padded shape, which is a multiple of all blocks, so that each block is a whole run of cells."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__

    def runs(self, size: Sizes, samples: Spans) -> Spans:
        """The blocks of ``size``."""
        assert isinstance(samples, DenseSpans)
        # A block that covers the grid along an axis is clipped to it; of symbolic grids no block is larger.
        cells = (
            min(side, cells) if isinstance(cells, int) else side
            for side, cells in zip(size, self.shapes[0], strict=True)
        )
        return samples.groups(math.prod(cells))

    def coarser(self, stride: Sizes) -> GridPlan:
        """The grids of the groups."""
        shape = tuple(cells // size for cells, size in zip(self.shapes[0], stride, strict=True))
        divided = (tuple(b // s for b, s in zip(block, stride, strict=True)) for block in self.blocks)
        return DenseGrid((shape,), tuple(block for block in divided if math.prod(block) > 1))


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of a level, which become the tokens of the next one.

    Args:
        spans: the groups.
        samples: the samples, in units of groups.
        group_size: number of positions in a group: its fixed size, or its maximum length.
        cell_position_T: position of each token in its group, if groups are blocks of grids that the border cuts off.
    """

    spans: Spans
    samples: Spans
    group_size: int
    cell_position_T: Tensor | None = None

    @property
    def position_in_group_T(self) -> Tensor:
        """(T,) position of each token in its group, below ``group_size``. Longer groups are scaled to it."""
        if self.cell_position_T is not None:
            return self.cell_position_T
        return self.spans.cached(("position", self.group_size), self._scaled_positions)

    def _scaled_positions(self) -> Tensor:
        position_T = self.spans.positions
        if self.spans.max_seqlen <= self.group_size:
            return position_T
        length_T = self.spans.counts[self.spans.ids]
        # Neighbours in a longer group share a position: position / length * group_size, rounded down.
        return torch.where(length_T > self.group_size, position_T * self.group_size // length_T, position_T)


@dataclass(frozen=True, eq=False)
class LevelPlan:
    """A batch at one level.

    Args:
        level: configuration of the level.
        samples: the samples, in tokens of the level.
        coords_TC: coordinates, in level-0 units.
        unit: level-0 units per unit of this level, along each axis.
        grid: the grids, if the samples are grids at this level.
        boundaries: starts of given groups by name, on the host.
        level_0: the plan of level 0; ``None`` in that plan itself.
    """

    level: Level
    samples: Spans
    coords_TC: Tensor
    unit: tuple[float, ...]
    grid: GridPlan | None
    boundaries: Mapping[str, Tensor]
    level_0: LevelPlan | None = None

    @classmethod
    @on_host
    def of(cls, tokens: Tokens, level: Level, blocks: tuple[Sizes, ...]) -> LevelPlan:
        """The plan of level 0."""
        if tokens.axes > 1 and tokens.grids is None:
            raise UserError(f"tokens on {tokens.axes} axes must be grids in hierarchical order; set Tokens.grids")
        # On one axis the order is that of the tokens, so a grid would add nothing.
        kind = DenseGrid if isinstance(tokens, DenseTokens) else GridPlan
        grid = kind(tokens.grids, blocks) if tokens.grids is not None and tokens.axes > 1 else None
        unit = (1.0,) * tokens.axes
        coords_TC = tokens.coords_TC
        if isinstance(tokens, DenseTokens):
            return cls(level, tokens.spans, coords_TC, unit, grid, {})
        if tokens.x.dtype == torch.float64 or tokens.spans.max_seqlen > FLOAT32_RANGE:
            # Float64 also keeps the means exact that become the coordinates of groups.
            coords_TC = coords_TC.double()
        return cls(level, tokens.spans, coords_TC, unit, grid, tokens.boundaries)

    @property
    def device(self) -> torch.device:
        """Device of the tokens."""
        return self.coords_TC.device

    @property
    def unit_C(self) -> Tensor:
        """(C,) ``unit``, on the device."""
        return self.samples.cached(("unit", self.unit), lambda: torch.tensor(self.unit, device=self.device))

    @property
    def origin_BC(self) -> Tensor:
        """(B, C) coordinates of the first level-0 token of each sample; 0 for empty samples."""
        # Fine and coarse levels count from the same point, the first level-0 token.
        plan = self.level_0 or self
        return segment_first(plan.coords_TC, plan.samples)

    @on_host
    def layer_spans(self, layers: int) -> list[Spans]:
        """The attention spans of each layer."""
        return [self.attention_spans(layer) for layer in range(layers)]

    def attention_spans(self, layer: int) -> Spans:
        """The runs within which the tokens of a layer attend to each other: windows, or samples."""
        window, kind = self.level.window, self.level.window_type
        # Sliding windows stay whole samples here; the kernel masks them by distance.
        if window is None or kind == "sliding":
            return self.samples
        return self.samples.cached(("attention", kind, window, layer % 2, self.grid), lambda: self._windows(layer))

    def _windows(self, layer: int) -> Spans:
        if self.grid is not None:
            assert self.level.window is not None
            return self.grid.runs(extent(self.level.window, len(self.unit), "window"), self.samples)
        size = self._window_size()
        # As in Swin, every other layer is shifted by half a window: the first window of a sample is half as long.
        shifted = self.level.window_type == "shifted" and layer % 2
        return self.samples.cut(size, size // 2 if shifted else 0)

    @on_host
    def cross_scale_spans(self) -> Spans:
        """The blocks within which other levels attend to this one: its windows, or blocks as long as a sliding one."""
        if self.level.window is None:
            return self.samples
        if self.level.window_type == "sliding":
            return self.samples.cut(self._window_size())
        return self.attention_spans(0)

    @property
    def sliding_window(self) -> int | None:
        """Tokens of the sliding window, if the level has one."""
        return self._window_size() if self.level.window_type == "sliding" else None

    def _window_size(self) -> int:
        """Tokens of the window; on one axis."""
        window = self.level.window_tokens
        assert window is not None
        return window

    @on_host
    def fixed_groups(self, config: FixedGroups) -> Groups:
        """Groups by stride.

        Raises:
            UserError: the stride has several axes, but the tokens are not a grid.
        """
        if self.grid is None:
            if not isinstance(config.stride, int) and len(config.stride) > 1:
                raise UserError(
                    f"level {self.level.name!r} has stride {config.stride} but its tokens are not a grid; give one "
                    "number"
                )
            stride = config.stride if isinstance(config.stride, int) else config.stride[0]
            spans = self.samples.groups(stride)
            return Groups(spans, self.samples.coarsen(spans), stride)
        # On a grid a group is a block, which is one run in the hierarchical order.
        size = extent(config.stride, len(self.unit), "stride")
        spans = self.grid.runs(size, self.samples)
        # Without cut-off blocks the position of a cell is its index in the block.
        cell_position_T = None if spans.uniform == math.prod(size) else self.grid.block_positions(size, self.device)
        return Groups(spans, self.samples.coarsen(spans), math.prod(size), cell_position_T)

    @on_host
    def given_groups(self, config: GivenGroups) -> Groups:
        """Groups from a given boundary.

        Raises:
            UserError: the tokens carry no such boundary.
        """
        check_boundary(self.level, config, self.boundaries)
        starts_T = self.boundaries[config.boundary]
        if config.max is not None:
            first = self.samples.host[:-1]
            starts_T = starts_T.clone()
            # Lengths are counted from the last start, so the first token of every sample must be one.
            starts_T[first[first < self.samples.total]] = True
            starts_T = limit_group_length(starts_T, config.max)
        spans, samples = Spans.from_starts(starts_T, self.samples)
        return Groups(spans, samples, config.max or 16)

    @on_host
    def routed_groups(self, starts_T: Tensor, config: LearnedGroups) -> Groups:
        """Groups from predicted boundaries. On a GPU this waits for the device, once per batch; nothing else does."""
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
            level: configuration of the next level.
            groups: the groups that become its tokens.
            coords_GC: their coordinates.
            stride: typical tokens per group, along each axis.
            gridded: the groups are blocks of the grid.
            ahead: the token of a group is used from the group's first token on, when later starts in the group are not
                known yet.
        """
        unit = tuple(a * b for a, b in zip(self.unit, stride, strict=True))
        # Strides of fixed groups are whole numbers; typical sizes of other groups need not be, but form no grid.
        grid = self.grid.coarser(tuple(int(size) for size in stride)) if gridded and self.grid is not None else None
        boundaries = {name: _coarse_starts(mask, groups, inclusive=ahead) for name, mask in self.boundaries.items()}
        return LevelPlan(level, groups.samples, coords_GC, unit, grid, boundaries, self.level_0 or self)


def check_boundary(level: Level, config: GivenGroups, boundaries: Mapping[str, Tensor]) -> None:
    """Checks that tokens have the boundary that a level groups by.

    Raises:
        UserError: the tokens carry no such boundary.
    """
    if config.boundary not in boundaries:
        raise UserError(
            f"level {level.name!r} groups by boundary {config.boundary!r}, which the tokens do not carry; "
            f"they carry: {', '.join(sorted(boundaries)) or 'none'}"
        )


def reporting_group(group_T: np.ndarray, begins_T: np.ndarray, *, inclusive: bool) -> np.ndarray:
    """(T,) index of the group that takes over a start at each token, when boundaries are coarsened.

    That is the group of the token. If the token of a group depends on the group's first token only, it must not show
    later starts in the group, which move to the next one.

    Args:
        group_T: group of each token.
        begins_T: bool, whether each token is the first of its group.
        inclusive: the token of a group depends on the group's first token only.
    """
    # ~ on a boolean array is "not": 1 for tokens inside a group, 0 for first ones.
    return group_T + ~begins_T if inclusive else group_T


def _coarse_starts(starts_T: Tensor, groups: Groups, *, inclusive: bool) -> Tensor:
    """Coarsens boundaries: (G,) bool, whether a given group starts at each token of the next level."""
    first_G = groups.spans.host[:-1].numpy()
    rows = np.flatnonzero(starts_T.numpy())
    # No group is empty here, so a row belongs to the last group that begins at or before it.
    group = np.searchsorted(first_G, rows, "right") - 1
    reporting = reporting_group(group, first_G[group] == rows, inclusive=inclusive)
    # A start moved past the last group of its sample is dropped, as the next group belongs to another sample.
    ends = groups.samples.host[1:].numpy()
    within = reporting < ends[np.searchsorted(ends, group, "right")]
    flags_G = np.zeros(len(first_G), dtype=bool)
    flags_G[reporting[within]] = True
    return torch.from_numpy(flags_G)
