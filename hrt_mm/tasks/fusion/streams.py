"""Streams of tokens, one a tower, and how those of one sample are laid side by side.

Shapes: T tokens, D width, B samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.host import on_host
from ...core.segments import segment_mean
from ...core.spans import Spans


@dataclass(frozen=True, eq=False)
class TowerStream:
    """One tower's tokens.

    Args:
        x: (T, D).
        samples: B runs, empty for samples that do not have this modality.
        time_T: (T,) where tokens lie on the shared axis; ``None`` for a tower without a place on it.
    """

    x: Tensor
    samples: Spans
    time_T: Tensor | None = None

    @classmethod
    def of(
        cls, x: Tensor, spans: Spans, sample_indices: Tensor, batch: int, time_T: Tensor | None = None
    ) -> TowerStream:
        """From the tokens of those samples that have the modality.

        Args:
            x: (T, D).
            spans: runs of the samples that are there.
            sample_indices: which samples those are, ascending; on the host.
            batch: how many samples there are in all.
            time_T: (T,) where tokens lie on the shared axis.
        """
        lengths = torch.zeros(batch, dtype=torch.int64)
        lengths[sample_indices] = spans.lengths
        return cls(x, Spans.from_lengths(lengths, x.device), time_T)

    def only(self, keep_B: Tensor) -> TowerStream:
        """The same without some samples.

        Args:
            keep_B: (B,) bool, on the host.
        """
        lengths = self.samples.lengths
        rows = keep_B.repeat_interleave(lengths).nonzero()[:, 0].to(self.x.device)
        time_T = self.time_T[rows] if self.time_T is not None else None
        return TowerStream(self.x[rows], Spans.from_lengths(lengths * keep_B, self.x.device), time_T)

    @property
    def present_B(self) -> Tensor:
        """(B,) bool: which samples have it."""
        return self.samples.counts > 0

    def pooled(self) -> Tensor:
        """(B, D) means; zeros where it is missing."""
        return segment_mean(self.x, self.samples)

    def coords(self) -> Tensor:
        """(T, 1) places on the shared axis; 0 for a tower without one."""
        return (self.time_T if self.time_T is not None else self.x.new_zeros(len(self.x)))[:, None].float()


@dataclass(frozen=True, eq=False)
class Side:
    """Several partitions into B runs, laid side by side: the runs of one sample follow each other.

    Args:
        samples: B runs over all rows.
        order: (T,) where each row of the new layout comes from in the rows laid end to end.
        back: (T,) the inverse.
        sizes: rows of each partition.
    """

    samples: Spans
    order: Tensor
    back: Tensor
    sizes: tuple[int, ...]

    @classmethod
    @on_host
    def by_side(cls, parts: Sequence[Spans]) -> Side:
        """Plans the layout."""
        device = parts[0].device
        lengths_BN = torch.stack([part.lengths for part in parts], 1)
        starts_BN = (lengths_BN.flatten().cumsum(0) - lengths_BN.flatten()).view_as(lengths_BN)
        positions = [
            starts_BN[:, index].repeat_interleave(part.lengths)
            + torch.arange(part.total)
            - part.host[:-1].repeat_interleave(part.lengths)
            for index, part in enumerate(parts)
        ]
        back = torch.cat(positions)
        order = torch.empty_like(back)
        order[back] = torch.arange(len(back))
        samples = Spans.from_lengths(lengths_BN.sum(1), device)
        return cls(samples, order.to(device), back.to(device), tuple(part.total for part in parts))

    def lay(self, rows: Sequence[Tensor]) -> Tensor:
        """Rows of the partitions in the new layout."""
        return torch.cat(list(rows)).index_select(0, self.order)

    def part(self, x: Tensor) -> tuple[Tensor, ...]:
        """Rows of the new layout as those of each partition."""
        return x.index_select(0, self.back).split(self.sizes)
