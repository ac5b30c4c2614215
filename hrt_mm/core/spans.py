"""Spans: a partition of packed rows into contiguous runs.

Samples of a batch, attention windows and pooling groups are all spans. They are planned on the host, where lengths are
known, and copied to the device once. Only learned groups, which a device decides, are read back, once per batch.

Shapes: T rows, N runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .errors import UserError
from .host import on_host

_Value = TypeVar("_Value")


class Spans:
    """A partition of ``total`` packed rows into runs, stored as offsets.

    Args:
        offsets: (N + 1,) int64 on the CPU: the first row of each run, then ``total``.
        device: device of ``cu_seqlens``.
    """

    def __init__(self, offsets: Tensor, device: torch.device | str = "cpu") -> None:
        assert offsets.device.type == "cpu" and offsets.dtype == torch.int64 and offsets.ndim == 1
        self.host = offsets
        self.total = int(offsets[-1])
        # int32 is what kernels for ragged runs take; indexing converts it back.
        self.cu_seqlens = offsets.to(device=device, dtype=torch.int32, non_blocking=True)
        lengths = offsets.diff()
        self.max_seqlen = int(lengths.max()) if len(lengths) else 0
        shortest = int(lengths.min()) if len(lengths) else 0
        # Runs of one length fold into a dense batch, which most operations on spans have a fast path for.
        self.uniform: int | None = self.max_seqlen if len(lengths) and shortest == self.max_seqlen else None
        # Rows that exist, (T,) bool; only dense batches (core.dense) have others.
        self.valid_T: Tensor | None = None
        self._cache: dict[Any, Any] = {}
        # Keyed weakly, so that a value goes with the other spans that it depends on.
        self._pairs: WeakKeyDictionary[Spans, dict[Any, Any]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Spans], tuple[Tensor, torch.device]]:
        return type(self), (self.host, self.device)

    @classmethod
    @on_host
    def from_lengths(cls, lengths: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> Spans:
        """Consecutive runs of the given lengths.

        Raises:
            UserError: a length is negative.
        """
        sizes = torch.as_tensor(lengths, dtype=torch.int64, device="cpu").reshape(-1)
        if len(sizes) and int(sizes.min()) < 0:
            raise UserError(f"run lengths must be 0 or more, got {int(sizes.min())}")
        offsets = torch.zeros(len(sizes) + 1, dtype=torch.int64)
        torch.cumsum(sizes, 0, out=offsets[1:])
        return cls(offsets, device)

    @classmethod
    @on_host
    def from_starts(cls, starts_T: Tensor, within: Spans) -> tuple[Spans, Spans]:
        """Groups from a boundary mask. The first row of every run of ``within`` starts a group in any case.

        Copies a mask on a device to the host, which waits for the device.

        Args:
            starts_T: (T,) bool, true where a group starts.
            within: runs that no group crosses.

        Returns:
            The groups, and ``within`` in units of groups.

        Raises:
            UserError: the mask is not (T,) bool.
        """
        if starts_T.shape != (within.total,) or starts_T.dtype != torch.bool:
            raise UserError(
                f"a boundary mask must be bool of shape ({within.total},), got {starts_T.dtype} {tuple(starts_T.shape)}"
            )
        starts = starts_T.detach().cpu().clone()
        # Whatever the mask has there, no group continues from one sample into the next.
        first = within.host[:-1]
        starts[first[first < within.total]] = True  # trailing empty runs start past the last row
        rows = starts.nonzero().squeeze(1)
        groups = cls(torch.cat([rows, rows.new_tensor([within.total])]), within.device)
        return groups, within.coarsen(groups)

    @property
    def foldable(self) -> bool:
        """Whether rows fold into a dense batch of runs of ``uniform`` rows each."""
        return bool(self.uniform)

    @property
    def device(self) -> torch.device:
        """Device of ``cu_seqlens``."""
        return self.cu_seqlens.device

    def __len__(self) -> int:
        return len(self.host) - 1

    def __repr__(self) -> str:
        shape = f"length={self.uniform}" if self.uniform is not None else f"max_seqlen={self.max_seqlen}"
        return f"Spans(runs={len(self)}, total={self.total}, {shape}, device={self.device})"

    @on_host
    def cached(self, key: Any, make: Callable[[], _Value], other: Spans | None = None) -> _Value:
        """A value derived from these spans, computed once and shared by all layers.

        Args:
            key: unique among the values derived from these spans (and ``other``).
            make: computes the value. The value must not refer to these spans: the cycle would hold device memory until
                the garbage collector runs.
            other: other spans that the value depends on. The value is dropped with them.
        """
        # Values of a pair live as long as both: they lie with these spans, under a weak key.
        store = self._cache if other is None or other is self else self._pairs.setdefault(other, {})
        if key not in store:
            # Evaluation may run before training, and autograd cannot save tensors made in inference mode.
            with torch.inference_mode(False):
                store[key] = make()
        value: _Value = store[key]
        return value

    @property
    def lengths(self) -> Tensor:
        """(N,) int64 lengths of the runs, on the host."""
        return self.cached("lengths", self.host.diff)

    @property
    def counts(self) -> Tensor:
        """(N,) int64 lengths of the runs, on the device."""
        return self.cached("counts", lambda: self.lengths.to(self.device, non_blocking=True))

    @property
    def has_empty(self) -> bool:
        """Whether any run is empty."""
        return self.cached("has_empty", lambda: bool((self.lengths == 0).any()))

    @property
    def ids(self) -> Tensor:
        """(T,) int64 index of the run of each row, on the device."""
        return self.cached(
            "ids",
            # output_size is known on the host; without it repeat_interleave would wait for the device.
            lambda: torch.repeat_interleave(
                torch.arange(len(self), device=self.device), self.counts, output_size=self.total
            ),
        )

    @property
    def positions(self) -> Tensor:
        """(T,) int64 position of each row in its run, on the device."""
        return self.cached(
            "positions",
            # Row minus first row of its run.
            lambda: torch.arange(self.total, device=self.device) - self.cu_seqlens[:-1].long()[self.ids],
        )

    @property
    def singletons(self) -> Spans:
        """As many runs of one row each: for one query per group."""
        return self.cached("singletons", lambda: Spans(torch.arange(len(self) + 1), self.device))

    def to(self, device: torch.device | str) -> Spans:
        """The same spans on another device."""
        return self if torch.device(device) == self.device else Spans(self.host, device)

    def cpu(self) -> Spans:
        """The same spans in host memory."""
        return self.to("cpu")

    def pin_memory(self) -> Spans:
        """The same spans with offsets in pinned host memory, from where they are copied asynchronously."""
        return Spans(self.host.pin_memory(), self.device)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """A view of ``x`` (T, ...) for each run."""
        return torch.split(x, self.lengths.tolist())

    @on_host
    def cut(self, size: int, first: int = 0) -> Spans:
        """Cuts each run into pieces of ``size`` rows. The last piece of a run may be shorter.

        Args:
            size: rows per piece, 1 or more.
            first: rows of the first piece of each run if that is shorter; 0 for ``size``.

        Raises:
            UserError: ``size`` is below 1.
        """
        if size < 1:
            raise UserError(f"a window or stride must be 1 or more, got {size}")
        # Runs that are multiples of the size are cut evenly throughout, without a look at single runs.
        if not first and self.uniform and self.uniform % size == 0:
            return self.cached(("cut", size, 0), lambda: Spans(torch.arange(0, self.total + 1, size), self.device))
        return self.cached(("cut", size, first), lambda: self._cut(size, first))

    def _cut(self, size: int, first: int) -> Spans:
        # A shorter first piece is cut as if the run began ``missing`` rows earlier; its start is then clamped.
        missing = size - first if first else 0
        padded = torch.where(self.lengths > 0, self.lengths + missing, 0)
        pieces = (padded + size - 1) // size
        run = torch.repeat_interleave(torch.arange(len(self)), pieces)
        # Subtracting the number of pieces in earlier runs turns a running count into an index within the run.
        index = torch.arange(len(run)) - (pieces.cumsum(0) - pieces)[run]
        starts = self.host[run] + (index * size - missing).clamp(min=0)
        return Spans(torch.cat([starts, self.host[-1:]]), self.device)

    def groups(self, size: int) -> Spans:
        """Groups of ``size`` consecutive rows; the last one of a run may be shorter."""
        return self.cut(size)

    @on_host
    def coarsen(self, groups: Spans) -> Spans:
        """These runs in units of groups: the run lengths become numbers of ``groups``.

        Raises:
            UserError: a run is not a union of groups.
        """
        return self.cached("coarsen", lambda: self._coarsen(groups), groups)

    def _coarsen(self, groups: Spans) -> Spans:
        if groups.total != self.total:
            raise UserError(f"groups cover {groups.total} rows, their sequences {self.total}")
        # Several empty groups may start at the same row as a run. They belong to that run, hence the leftmost match.
        # The number of groups that begin before a run is where it begins in units of groups.
        offsets = torch.searchsorted(groups.host, self.host)
        offsets[-1] = len(groups)
        inside = offsets[:-1] < len(groups.host)
        if not torch.equal(groups.host[offsets[:-1][inside]], self.host[:-1][inside]):
            raise UserError("a group crosses the boundary between two sequences; split it there")
        return Spans(offsets, self.device)

    @on_host
    def merge(self, outer: Spans) -> Spans:
        """Merges these runs as ``outer``, a partition of them, says: the inverse of :meth:`coarsen`.

        Args:
            outer: spans in units of these runs.
        """
        assert outer.total == len(self)
        return self.cached("merge", lambda: Spans(self.host[outer.host], self.device), outer)

    @staticmethod
    def concat(partitions: Sequence[Spans]) -> Spans:
        """Concatenates partitions."""
        lengths = [spans.lengths for spans in partitions]
        return Spans.from_lengths(torch.cat(lengths) if lengths else [], partitions[0].device if partitions else "cpu")
