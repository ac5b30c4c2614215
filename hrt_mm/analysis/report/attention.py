"""Attention weights of every block, computed from its queries and keys.

Shapes: T tokens, H heads, K key heads, E head width, L queries and M keys of a sequence, C axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ...core.attention.reference import visible
from ...core.block import Block
from ...core.hierarchy import Hierarchy
from ...core.spans import Spans

CHUNK = 256
"""Queries whose weights are computed at once."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The attention of one block on one batch.

    Args:
        level: index of its level.
        part: ``encoder`` or ``decoder``.
        index: of the block within that part.
        q_THE: queries, after norm and rotation.
        k_TKE: keys.
        spans: sequences that attend within themselves.
        window: sliding window within the sequences.
        causal: whether later tokens are hidden.
    """

    level: int
    part: Literal["encoder", "decoder"]
    index: int
    q_THE: Tensor
    k_TKE: Tensor
    spans: Spans
    window: int | None
    causal: bool

    @property
    def name(self) -> str:
        """Name of the block."""
        kind = "block" if self.part == "encoder" else "decoder"
        return f"{kind} {self.index + 1}"

    def weights(self, query: int) -> Tensor:
        """(T,) attention weights of one token, the mean over heads."""
        sequence = int(torch.searchsorted(self.spans.host, query, right=True)) - 1
        first, last = self.spans.host[sequence : sequence + 2].tolist()
        weights_T = torch.zeros(self.spans.total)
        weights_T[first:last] = self._sequence_weights(sequence, query - first, query - first + 1)[0].cpu()
        return weights_T

    def spread(self, weights_T: Tensor) -> Tensor:
        """(T,) weights of queries, passed on to the tokens that they attend to."""
        spread_T = torch.zeros(self.spans.total)
        for sequence, first, start, stop in self._chunks():
            weights_LM = self._sequence_weights(sequence, start, stop).cpu()
            spread_T[first : first + weights_LM.shape[1]] += weights_T[first + start : first + stop] @ weights_LM
        return spread_T

    def matrix(self, limit: int) -> Tensor:
        """(t, t) attention weights among the first ``limit`` tokens."""
        size = min(limit, self.spans.total)
        matrix = torch.zeros(size, size)
        for sequence, (first, last) in enumerate(pairwise(self.spans.host.tolist())):
            if first < size:
                length = min(last, size) - first
                block = slice(first, first + length)
                matrix[block, block] = self._sequence_weights(sequence, 0, length)[:, :length].cpu()
        return matrix

    def distances(self, coords_TC: Tensor) -> tuple[float, float]:
        """Mean distance to the attended tokens, and that of uniform attention over all visible tokens.

        Args:
            coords_TC: coordinates.
        """
        attended = uniform = 0.0
        for sequence, first, start, stop in self._chunks():
            weights_LM = self._sequence_weights(sequence, start, stop)
            coords_LC = coords_TC[first + start : first + stop]
            distance_LM = torch.cdist(coords_LC, coords_TC[first : first + weights_LM.shape[1]])
            visible_LM = self._visible(sequence, start, stop).to(weights_LM.dtype)
            attended += float((weights_LM * distance_LM).sum())
            uniform += float((visible_LM / visible_LM.sum(-1, keepdim=True).clamp(min=1) * distance_LM).sum())
        total = max(1, self.spans.total)
        return attended / total, uniform / total

    def _chunks(self) -> Iterator[tuple[int, int, int, int]]:
        for sequence, (first, last) in enumerate(pairwise(self.spans.host.tolist())):
            for start in range(0, last - first, CHUNK):
                yield sequence, first, start, min(start + CHUNK, last - first)

    def _sequence_weights(self, sequence: int, start: int, stop: int) -> Tensor:
        """(L, M) weights of some queries of a sequence, the mean over heads."""
        first, last = self.spans.host[sequence : sequence + 2].tolist()
        queries_per_key_head = self.q_THE.shape[1] // self.k_TKE.shape[1]
        q_LHE = self.q_THE[first + start : first + stop]
        k_MHE = self.k_TKE[first:last].repeat_interleave(queries_per_key_head, 1)
        scores_HLM = torch.einsum("lhe,mhe->hlm", q_LHE, k_MHE) / q_LHE.shape[-1] ** 0.5
        hidden_LM = ~self._visible(sequence, start, stop)
        return scores_HLM.masked_fill(hidden_LM, float("-inf")).softmax(-1).mean(0)

    def _visible(self, sequence: int, start: int, stop: int) -> Tensor:
        length = int(self.spans.lengths[sequence])
        left = -1 if self.window is None else self.window
        return visible(length, length, (left, 0 if self.causal else left), self.q_THE.device)[start:stop]


@contextmanager
def recorded(hierarchy: Hierarchy) -> Iterator[list[Layer]]:
    """Records the attention of each block that runs inside of the block, in order."""
    layers: list[Layer] = []
    stacks: list[tuple[int, Literal["encoder", "decoder"], Iterable[Block]]] = []
    for level, stage in enumerate(hierarchy.stages):
        stacks += [(level, "encoder", stage.encoder), (level, "decoder", stage.decoder)]
    observed = [(level, part, index, block) for level, part, blocks in stacks for index, block in enumerate(blocks)]
    try:
        for level, part, index, block in observed:
            block.attention.observer = partial(_record, layers, level, part, index)
        yield layers
    finally:
        for *_, block in observed:
            block.attention.observer = None


def _record(
    layers: list[Layer],
    level: int,
    part: Literal["encoder", "decoder"],
    index: int,
    *,
    q_THE: Tensor,
    k_TKE: Tensor,
    spans: Spans,
    window: int | None,
    causal: bool,
) -> None:
    layers.append(Layer(level, part, index, q_THE.float(), k_TKE.float(), spans, window, causal))
