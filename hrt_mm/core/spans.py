"""Spans: a partition of packed rows into contiguous runs, the one structure of the framework.

Shapes: T rows, N runs. Sequences of a batch, attention windows and pooling groups are all Spans.
Partitions are planned on the host, from lengths that are known there, and copied to the device once. Only
spans that were born on a device (learned groups) are read back, once, when something on the host asks.
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
    """A partition of ``total`` packed rows into runs, held as offsets.

    Args:
        offsets: (N+1,) int64 on the CPU: row where each run starts, and ``total`` at the end.
        device: where ``cu_seqlens`` lives.
    """

    def __init__(self, offsets: Tensor, device: torch.device | str = "cpu") -> None:
        assert offsets.device.type == "cpu" and offsets.dtype == torch.int64 and offsets.ndim == 1
        self.host = offsets
        self.total = int(offsets[-1])
        self.cu_seqlens = offsets.to(device=device, dtype=torch.int32, non_blocking=True)
        lengths = offsets.diff()
        self.max_seqlen = int(lengths.max()) if len(lengths) else 0
        shortest = int(lengths.min()) if len(lengths) else 0
        self.uniform: int | None = self.max_seqlen if len(lengths) and shortest == self.max_seqlen else None
        self._cache: dict[Any, Any] = {}
        self._pairs: WeakKeyDictionary[Spans, dict[Any, Any]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Spans], tuple[Tensor, torch.device]]:
        return type(self), (self.host, self.device)

    @classmethod
    @on_host
    def from_lengths(cls, lengths: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> Spans:
        """Runs of the given lengths, back to back.

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
        """Groups from a boundary mask. The first row of every run of ``within`` starts a group whatever the mask says.

        Reads a mask that lies on a device once.

        Args:
            starts_T: (T,) bool, true where a group starts.
            within: the sequences that no group crosses.

        Returns:
            The groups over the rows, and the sequences over the groups.

        Raises:
            UserError: the mask is not (T,) bool.
        """
        if starts_T.shape != (within.total,) or starts_T.dtype != torch.bool:
            raise UserError(
                f"a boundary mask must be bool of shape ({within.total},), got {starts_T.dtype} {tuple(starts_T.shape)}"
            )
        starts = starts_T.detach().cpu().clone()
        first = within.host[:-1]
        starts[first[first < within.total]] = True
        heads = starts.nonzero().squeeze(1)
        groups = cls(torch.cat([heads, heads.new_tensor([within.total])]), within.device)
        return groups, within.over(groups)

    @property
    def device(self) -> torch.device:
        """Where ``cu_seqlens`` lives."""
        return self.cu_seqlens.device

    def __len__(self) -> int:
        return len(self.host) - 1

    def __repr__(self) -> str:
        shape = f"length={self.uniform}" if self.uniform is not None else f"max_seqlen={self.max_seqlen}"
        return f"Spans(runs={len(self)}, total={self.total}, {shape}, device={self.device})"

    @on_host
    def cached(self, key: Any, make: Callable[[], _Value], other: Spans | None = None) -> _Value:
        """A value derived from these spans, made once and shared by all layers.

        Args:
            key: its name, unique among the values derived from these spans (and ``other``).
            make: makes it. It must not hold these spans, which would keep device memory until the collector runs.
            other: a second partition that the value depends on; the value is forgotten with that one.
        """
        store = self._cache if other is None or other is self else self._pairs.setdefault(other, {})
        if key not in store:
            # Evaluation may come first and training after it; autograd cannot save an inference tensor.
            with torch.inference_mode(False):
                store[key] = make()
        value: _Value = store[key]
        return value

    @property
    def lengths(self) -> Tensor:
        """(N,) int64 run lengths, on the host."""
        return self.cached("lengths", self.host.diff)

    @property
    def counts(self) -> Tensor:
        """(N,) int64 run lengths, on the device."""
        return self.cached("counts", lambda: self.lengths.to(self.device, non_blocking=True))

    @property
    def has_empty(self) -> bool:
        """Whether a run has no row."""
        return self.cached("has_empty", lambda: bool((self.lengths == 0).any()))

    @property
    def ids(self) -> Tensor:
        """(T,) int64: the run of each row, on the device."""
        return self.cached(
            "ids",
            lambda: torch.repeat_interleave(
                torch.arange(len(self), device=self.device), self.counts, output_size=self.total
            ),
        )

    @property
    def positions(self) -> Tensor:
        """(T,) int64: the place of each row in its run, on the device."""
        return self.cached(
            "positions",
            lambda: torch.arange(self.total, device=self.device) - self.cu_seqlens[:-1].long()[self.ids],
        )

    @property
    def singletons(self) -> Spans:
        """Runs of one row, one for each of these runs: a group's own query."""
        return self.cached("singletons", lambda: Spans(torch.arange(len(self) + 1), self.device))

    def to(self, device: torch.device | str) -> Spans:
        """The same partition on another device."""
        return self if torch.device(device) == self.device else Spans(self.host, device)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The runs of ``x`` (T, ...) as views, one a run."""
        return torch.split(x, self.lengths.tolist())

    @on_host
    def cut(self, size: int, first: int = 0) -> Spans:
        """Each run cut into pieces of ``size`` rows, the last one shorter.

        Args:
            size: rows a piece, 1 or more.
            first: rows of the first piece of each run, where it is to be shorter; 0 for ``size``.

        Raises:
            UserError: ``size`` is below 1.
        """
        if size < 1:
            raise UserError(f"a window or stride must be 1 or more, got {size}")
        if not first and self.uniform and self.uniform % size == 0:
            return self.cached(("cut", size, 0), lambda: Spans(torch.arange(0, self.total + 1, size), self.device))
        return self.cached(("cut", size, first), lambda: self._cut(size, first))

    def _cut(self, size: int, first: int) -> Spans:
        lead = size - first if first else 0
        padded = torch.where(self.lengths > 0, self.lengths + lead, 0)
        pieces = (padded + size - 1) // size
        # A run no longer than its first, short piece is that one piece.
        run = torch.repeat_interleave(torch.arange(len(self)), pieces)
        rank = torch.arange(len(run)) - (pieces.cumsum(0) - pieces)[run]
        starts = self.host[run] + (rank * size - lead).clamp(min=0)
        return Spans(torch.cat([starts, self.host[-1:]]), self.device)

    @on_host
    def over(self, groups: Spans) -> Spans:
        """These runs counted in groups: how many of ``groups`` lie in each. Every run must be a union of groups."""
        return self.cached("over", lambda: self._over(groups), groups)

    def _over(self, groups: Spans) -> Spans:
        if groups.total != self.total:
            raise UserError(f"groups cover {groups.total} rows, their sequences {self.total}")
        # Empty groups at a border belong to the run that starts there, so search from the left.
        offsets = torch.searchsorted(groups.host, self.host)
        offsets[-1] = len(groups)
        inside = offsets[:-1] < len(groups.host)
        if not torch.equal(groups.host[offsets[:-1][inside]], self.host[:-1][inside]):
            raise UserError("a group crosses the border between two sequences; cut it there")
        return Spans(offsets, self.device)

    @on_host
    def under(self, outer: Spans) -> Spans:
        """The rows that lie under each run of ``outer``, a partition of these runs: the inverse of :meth:`over`."""
        assert outer.total == len(self)
        return self.cached("under", lambda: Spans(self.host[outer.host], self.device), outer)

    @staticmethod
    def concat(parts: Sequence[Spans]) -> Spans:
        """Partitions laid back to back."""
        lengths = [part.lengths for part in parts]
        return Spans.from_lengths(torch.cat(lengths) if lengths else [], parts[0].device if parts else "cpu")
