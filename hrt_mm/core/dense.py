"""Partitions of a dense batch: runs of one padded length, whose number and length may be symbols of ``torch.export``.

An exported graph cannot plan on the host, as the plan would be that of the example it was traced with. Here samples are
padded to one length, a multiple of all groups (and on grids, of all windows), so that every partition is a view, and a
mask tells which rows exist. A hierarchy runs on such tokens as it does on packed ones, with the same result for the
rows that exist.

Shapes: T rows, N runs, L rows of a run, B samples, D features, C axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .grids import Sizes
from .spans import Spans
from .tokens import Tokens


class DenseSpans(Spans):
    """``count`` runs of ``length`` rows each.

    Args:
        count: number of runs N.
        length: rows of a run L.
        valid_T: (T,) bool, rows that exist; all when ``None``.
        device: of the rows.
    """

    def __init__(self, count: int, length: int, valid_T: Tensor | None, device: torch.device) -> None:
        self.count, self.uniform, self.max_seqlen, self.valid_T = count, length, length, valid_T
        self.total = count * length
        self._device = device
        self._cache = {}

    @property
    def device(self) -> torch.device:
        """Device of the rows."""
        return self._device

    @property
    def foldable(self) -> bool:
        """Always: a comparison would constrain the symbol."""
        return True

    @property
    def shape(self) -> tuple[int, int]:
        """Number of runs and rows of a run."""
        return self.count, self.max_seqlen

    @property
    def counts(self) -> Tensor:
        """(N,) int64 rows of each run that exist."""
        if self.valid_T is None:
            return torch.full((self.count,), self.max_seqlen, device=self.device)
        return self.valid_T.unflatten(0, self.shape).sum(1)

    @property
    def has_empty(self) -> bool:
        """Whether a run may be empty."""
        return self.valid_T is not None

    @property
    def ids(self) -> Tensor:
        """(T,) int64 index of the run of each row."""
        return self._outer(1, 0)

    @property
    def positions(self) -> Tensor:
        """(T,) int64 position of each row in its run."""
        return self._outer(0, 1)

    def _outer(self, run: int, row: int) -> Tensor:
        # A sum, as the tracer would ask of an expanded tensor whether a size is 1, and ONNX has no symbolic remainder.
        runs_N1 = run * torch.arange(self.count, device=self.device)[:, None]
        return (runs_N1 + row * torch.arange(self.max_seqlen, device=self.device)).flatten()

    @property
    def singletons(self) -> Spans:
        """As many runs of one row each."""
        return DenseSpans(self.count, 1, None, self.device)

    def folded(self, x: Tensor) -> Tensor:
        """(T, ...) to (N, L, ...)."""
        return x.unflatten(0, self.shape)

    def packed(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`folded`."""
        return x.flatten(0, 1)

    @property
    def exists(self) -> Tensor | None:
        """(N, L) bool, rows that exist; ``None`` if all do."""
        return None if self.valid_T is None else self.folded(self.valid_T)

    def cut(self, size: int, first: int = 0) -> Spans:
        """Windows of ``size`` rows; those of the coarser level if ``size`` divides the length."""
        if not first and isinstance(self.max_seqlen, int) and self.max_seqlen <= size:
            return self
        lead = size - first if first else 0
        return Windows(self, size, lead, (self.max_seqlen + lead + size - 1) // size)

    def groups(self, size: int) -> Spans:
        """Groups of ``size`` rows, which divides the length."""
        return DenseSpans(self.count * (self.max_seqlen // size), size, self.valid_T, self.device)

    def coarsen(self, groups: Spans) -> Spans:
        """These runs in units of groups. A group exists if one of its rows does."""
        assert isinstance(groups, DenseSpans)
        valid_G = None if groups.valid_T is None else groups.counts > 0
        return DenseSpans(self.count, self.max_seqlen // groups.max_seqlen, valid_G, self.device)

    def merge(self, outer: Spans) -> Spans:
        """Merges these runs as ``outer``, a partition of them, does."""
        if isinstance(outer, Windows):
            whole = self.merge(outer.samples)
            assert isinstance(whole, DenseSpans)
            return Windows(whole, outer.size * self.max_seqlen, outer.lead * self.max_seqlen, outer.pieces)
        assert isinstance(outer, DenseSpans)
        return DenseSpans(outer.count, outer.max_seqlen * self.max_seqlen, self.valid_T, self.device)


class Windows(DenseSpans):
    """Windows over samples, for attention alone: samples are padded to whole windows there.

    Args:
        samples: that are cut.
        size: rows of a window.
        lead: rows of the first window of each sample that lie before it.
        pieces: windows of a sample.
    """

    def __init__(self, samples: DenseSpans, size: int, lead: int, pieces: int) -> None:
        self.samples, self.size, self.lead, self.pieces = samples, size, lead, pieces
        super().__init__(samples.count * self.pieces, size, samples.valid_T, samples.device)

    def folded(self, x: Tensor) -> Tensor:
        """(T, ...) to (N, L, ...); rows before and after the sample are copies of its ends."""
        row, _ = self._rows()
        return self.samples.folded(x).index_select(1, row).unflatten(1, (self.pieces, self.size)).flatten(0, 1)

    def packed(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`folded`."""
        rows = x.unflatten(0, (self.samples.count, self.pieces)).flatten(1, 2)
        # An index rather than a slice, whose bounds the tracer cannot compare.
        index = torch.arange(self.samples.max_seqlen, device=self.device) + self.lead
        return rows.index_select(1, index).flatten(0, 1)

    @property
    def exists(self) -> Tensor | None:
        """(N, L) bool, rows of the windows that exist."""
        row, inside = self._rows()
        valid = self.samples.exists
        exists = inside.repeat(self.samples.count, 1) if valid is None else inside & valid.index_select(1, row)
        return exists.unflatten(1, (self.pieces, self.size)).flatten(0, 1)

    def _rows(self) -> tuple[Tensor, Tensor]:
        """The row of a sample that each row of its windows is, and whether it lies within the sample."""
        last = self.samples.max_seqlen - 1
        row = torch.arange(self.pieces * self.size, device=self.device) - self.lead
        return row.clamp(0, last), (row >= 0) & (row <= last)


@dataclass(frozen=True, eq=False)
class DenseTokens(Tokens):
    """Tokens of a dense batch. Shapes may be symbolic, so that nothing is checked."""

    def __post_init__(self) -> None:
        pass


def dense_sequences(x_BLD: Tensor, lengths_B: Tensor, multiple: int) -> DenseTokens:
    """Tokens of a padded batch of sequences.

    Args:
        x_BLD: (B, L, ...) features or ids; what lies beyond a sequence's length is ignored.
        lengths_B: (B,) int64 lengths, from 1 to L.
        multiple: of what rows are padded to: the strides of all levels, multiplied.
    """
    batch, length = x_BLD.shape[:2]
    rows = (length + multiple - 1) // multiple * multiple
    # Padding by an index: of the length of a gather the tracer needs no comparison.
    x = x_BLD.index_select(1, torch.arange(rows, device=x_BLD.device).clamp(max=length - 1)).flatten(0, 1)
    every = DenseSpans(batch, rows, None, x_BLD.device)
    valid_T = every.positions < lengths_B.index_select(0, every.ids)
    # Float64, since a symbolic length may be one at which angles in float32 are too coarse.
    coords_TC = every.positions.double()[:, None]
    return DenseTokens(x, DenseSpans(batch, rows, valid_T, x_BLD.device), coords_TC)


def dense_grids(maps: Tensor, coords: Sequence[Tensor], blocks: tuple[Sizes, ...], unit: Sizes) -> DenseTokens:
    """Tokens of grids of one shape, in hierarchical order.

    Args:
        maps: (B, ..., D) with C axes between, of which the first may be symbolic.
        coords: (cells,) coordinates along each axis.
        blocks: nested block sizes of the order, from small to large.
        unit: level-0 cells per token of the coarsest level, along each axis.
    """
    batch, *cells = maps.shape[:-1]
    # Blocks of groups stay complete. A larger window is clipped to the grid where its size is known.
    sizes: list[tuple[int, ...]] = [(1,) * len(cells)]
    for block in blocks:
        rounded = zip(block, cells, sizes[-1], strict=True)
        clipped = tuple(
            min(side, -(-count // inner) * inner) if isinstance(count, int) else side for side, count, inner in rounded
        )
        sizes.append(block if math.prod(block) <= math.prod(unit) else clipped)
    padded = [(count + side - 1) // side * side for count, side in zip(cells, sizes[-1], strict=True)]
    device = maps.device
    rows = [torch.arange(count, device=device) for count in padded]
    along, exists = [], torch.ones((), dtype=torch.bool, device=device)
    for axis, (row, count) in enumerate(zip(rows, cells, strict=True)):
        index = row.clamp(max=count - 1)
        maps = maps.index_select(axis + 1, index)
        shape = [-1 if axis == other else 1 for other in range(len(cells))]
        along.append(coords[axis].index_select(0, index).view(shape).expand(padded))
        exists = exists & (row < count).view(shape)
    coords_TC = _nested(torch.stack(along, -1)[None], sizes).flatten(0, -2).repeat(batch, 1)
    valid_T = _nested(exists.expand(padded)[None, ..., None], sizes).flatten().repeat(batch)
    whole = all(isinstance(count, int) for count in cells) and padded == list(cells)
    spans = DenseSpans(batch, math.prod(padded), None if whole else valid_T, device)
    return DenseTokens(_nested(maps, sizes).flatten(0, -2), spans, coords_TC, (tuple(padded),))


def _nested(maps: Tensor, sizes: Sequence[Sizes]) -> Tensor:
    """Cells (B, ..., D) in hierarchical order, (B, cells, D)."""
    axes = maps.ndim - 2
    # Each axis is split into its digits: the index of the largest block, of the next smaller one in it, and so on.
    for axis in reversed(range(axes)):
        digits = [big[axis] // small[axis] for small, big in pairwise(sizes)]
        maps = maps.unflatten(axis + 1, (maps.shape[axis + 1] // sizes[-1][axis], *reversed(digits)))
    depth = len(sizes)
    order = [1 + axis * depth + digit for digit in range(depth) for axis in range(axes)]
    ordered = maps.permute(0, *order, maps.ndim - 1)
    return ordered.clone(memory_format=torch.contiguous_format).flatten(1, -2)
