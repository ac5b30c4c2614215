"""Bookkeeping of new tokens: how many each sample of a batch has, and how many came before.

Shapes: B samples, A of them with new tokens, N new tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from ..spans import Spans


@dataclass(eq=False)
class NewTokens:
    """The samples that the rows of a packed (N, ...) tensor belong to. Rows of a sample are adjacent and in order.

    Args:
        samples: (A,) int64 on the host, ascending indices into the batch.
        counts: (A,) int64 on the host, number of new tokens; 0 is allowed for keys, but not for tokens of blocks.
        before: (A,) int64 on the host, number of earlier tokens.
        batch: B.
        device: device of the tokens.

    Attributes:
        total: N.
        single: every sample has exactly one new token, as in a decoding step.
        whole_batch: every sample of the batch takes part.
    """

    samples: np.ndarray
    counts: np.ndarray
    before: np.ndarray
    batch: int
    device: torch.device
    total: int = field(init=False)
    single: bool = field(init=False)
    whole_batch: bool = field(init=False)

    def __post_init__(self) -> None:
        # This runs several times in every decoding step. On a few numbers a list is faster than a reduction of NumPy.
        counts = self.counts.tolist()
        self.total = sum(counts)
        self.single = self.total == len(counts) and 0 not in counts
        self.whole_batch = len(self.samples) == self.batch
        self._slots: dict[int, Tensor] = {}
        self._masks: dict[int, Tensor] = {}

    @cached_property
    def index(self) -> Tensor:
        """(A,) ``samples`` on the device."""
        return torch.from_numpy(self.samples).to(self.device, non_blocking=True)

    @cached_property
    def rows(self) -> Tensor:
        """(N,) index of the sample of each token in the batch, on the device."""
        return self.index if self.single else torch.from_numpy(self.samples[self.ids]).to(self.device)

    @cached_property
    def offsets(self) -> np.ndarray:
        """(A + 1,) first row of each sample, and N."""
        return offsets_of(self.counts)

    @cached_property
    def ids(self) -> np.ndarray:
        """(N,) position in ``samples`` of each token's sample."""
        if self.single:
            return np.arange(self.total)
        return np.repeat(np.arange(len(self.samples)), self.counts)

    @cached_property
    def numbers(self) -> np.ndarray:
        """(N,) index of each token in its sample, earlier tokens included."""
        if self.single:
            return self.before
        # Row minus first row of the sample is the index among its new tokens; add the earlier ones.
        return np.arange(self.total) + (self.before - self.offsets[:-1])[self.ids]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(A,) number of tokens of each sample, including the new ones."""
        return self.before + self.counts

    @cached_property
    def shortest(self) -> int:
        """Least number of tokens of a sample, including the new ones."""
        return min(self.lengths.tolist())

    @cached_property
    def longest(self) -> int:
        """Greatest number of tokens of a sample, including the new ones."""
        return max(self.lengths.tolist())

    @property
    def aligned(self) -> bool:
        """Every sample of the batch has one new token, and the same number of earlier ones."""
        return self.single and self.whole_batch and self.longest == self.shortest

    def slots(self, count: int) -> Tensor:
        """(N,) slot of each token in a ring of ``count``, on the device. All layers of a level share it."""
        if count not in self._slots:
            self._slots[count] = torch.from_numpy(self.numbers % count).to(self.device, non_blocking=True)
        return self._slots[count]

    def used(self, count: int) -> Tensor | None:
        """(A, 1, 1, S) bool, which of the first ``count`` slots a sample uses; ``None`` if all. Layers share it."""
        if self.shortest >= count:
            return None
        if count not in self._masks:
            used_AS = np.arange(count) < self.lengths[:, None]
            self._masks[count] = torch.from_numpy(used_AS).to(self.device, non_blocking=True)[:, None, None]
        return self._masks[count]

    @cached_property
    def spans(self) -> Spans:
        """The samples as runs of the new tokens."""
        return runs_of(self.counts, self.device, reused=bool(self.before.any()))

    def take(self, x: Tensor) -> Tensor:
        """Selects the samples: (B, ...) to (A, ...)."""
        # Most calls are for all samples, in order; then nothing is copied.
        return x if self.whole_batch else x.index_select(0, self.index)

    def put(self, x: Tensor, rows: Tensor) -> None:
        """Writes (A, ...) rows into a (B, ...) tensor in place."""
        if self.whole_batch:
            x.copy_(rows)
        else:
            x.index_copy_(0, self.index, rows.to(x.dtype))

    def spread(self, x: Tensor) -> Tensor:
        """(B, ...) to (N, ...): repeats the row of each sample for its new tokens."""
        if self.single:
            return self.take(x)
        return x.index_select(0, self.rows)

    def subset(self, chosen_A: np.ndarray) -> NewTokens:
        """The samples for which ``chosen_A`` is true."""
        if chosen_A.all():
            return self
        return NewTokens(self.samples[chosen_A], self.counts[chosen_A], self.before[chosen_A], self.batch, self.device)


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """(A,) counts to (A+1,) offsets."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def runs_of(counts: np.ndarray, device: torch.device, *, reused: bool) -> Spans:
    """Runs of the given lengths.

    Args:
        counts: lengths.
        device: of the spans.
        reused: cache spans of one run. Chunks of a stream repeat a few lengths, and planning attention over a pair of
            spans takes longer than the attention itself; the plan is cached with the spans.
    """
    if reused and len(counts) == 1:
        return _one_run(int(counts[0]), device)
    return Spans.from_lengths(torch.from_numpy(counts), device)


@lru_cache(maxsize=256)
def _one_run(length: int, device: torch.device) -> Spans:
    return Spans.from_lengths([length], device)


def by_sample(*ids: np.ndarray) -> np.ndarray:
    """Order of the concatenated rows of several packed tensors in which they form one packed tensor.

    Args:
        ids: sample of each row, one array per tensor. Within a sample, rows of earlier tensors come first.
    """
    return np.argsort(np.concatenate(ids), kind="stable")
