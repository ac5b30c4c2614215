"""What tokens attend to: the weights of every block, computed again from its inputs.

Shapes: T tokens, D width, H heads, K key heads, E head width, L queries and M keys of a run, C axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.attention.reference import visible
from ...core.block import Attention, Block
from ...core.hierarchy import Hierarchy, Stage
from ...core.spans import Spans

CHUNK = 256
"""Queries whose weights are held at once."""


@dataclass(frozen=True, eq=False)
class Layer:
    """The attention of one block on one batch.

    Args:
        level: place of its level.
        part: the way that it lies on.
        index: its place among the blocks there.
        q_THE: queries, ready to be multiplied.
        k_TKE: keys.
        spans: runs that attend within themselves.
        window: sliding window within the runs.
        causal: later tokens are hidden.
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
        """The block in words."""
        way = "block" if self.part == "encoder" else "decoder"
        return f"{way} {self.index + 1}"

    def weights(self, query: int) -> Tensor:
        """(T,) what one token gives to each token of its level, the mean over heads."""
        run = int(torch.searchsorted(self.spans.host, query, right=True)) - 1
        first, last = self.spans.host[run : run + 2].tolist()
        found = torch.zeros(self.spans.total)
        found[first:last] = self._run(run, query - first, query - first + 1)[0].cpu()
        return found

    def matrix(self, most: int) -> Tensor:
        """(t, t) weights among the first tokens, at most ``most`` of them."""
        size = min(most, self.spans.total)
        found = torch.zeros(size, size)
        for run, (first, last) in enumerate(pairwise(self.spans.host.tolist())):
            if first < size:
                shown = min(last, size) - first
                found[first : first + shown, first : first + shown] = self._run(run, 0, shown)[:, :shown].cpu()
        return found

    def distances(self, coords_TC: Tensor) -> tuple[float, float]:
        """How far tokens look on the average, and how far they would if they gave all that they see the same.

        Args:
            coords_TC: positions.
        """
        looked = even = 0.0
        for run, first, start, stop in self._chunks():
            weights_LM = self._run(run, start, stop)
            place_LC = coords_TC[first + start : first + stop]
            apart_LM = torch.cdist(place_LC, coords_TC[first : first + weights_LM.shape[1]])
            seen_LM = self._visible(run, start, stop).to(weights_LM.dtype)
            looked += float((weights_LM * apart_LM).sum())
            even += float((seen_LM / seen_LM.sum(-1, keepdim=True).clamp(min=1) * apart_LM).sum())
        total = max(1, self.spans.total)
        return looked / total, even / total

    def _chunks(self) -> Iterator[tuple[int, int, int, int]]:
        for run, (first, last) in enumerate(pairwise(self.spans.host.tolist())):
            for start in range(0, last - first, CHUNK):
                yield run, first, start, min(start + CHUNK, last - first)

    def _run(self, run: int, start: int, stop: int) -> Tensor:
        """(L, M) weights of some queries of a run, the mean over heads."""
        first, last = self.spans.host[run : run + 2].tolist()
        share = self.q_THE.shape[1] // self.k_TKE.shape[1]
        q_LHE = self.q_THE[first + start : first + stop]
        k_MHE = self.k_TKE[first:last].repeat_interleave(share, 1)
        scores_HLM = torch.einsum("lhe,mhe->hlm", q_LHE, k_MHE) / q_LHE.shape[-1] ** 0.5
        hidden_LM = ~self._visible(run, start, stop)
        return scores_HLM.masked_fill(hidden_LM, float("-inf")).softmax(-1).mean(0)

    def _visible(self, run: int, start: int, stop: int) -> Tensor:
        length = int(self.spans.lengths[run])
        left = -1 if self.window is None else self.window
        return visible(length, length, (left, 0 if self.causal else left), self.q_THE.device)[start:stop]


@contextmanager
def recorded(hierarchy: Hierarchy) -> Iterator[list[Layer]]:
    """The attention of each block that runs inside, in the order in which they run."""
    layers: list[Layer] = []
    handles = []
    for level, stage in enumerate(hierarchy.stages):
        assert isinstance(stage, Stage)
        ways: tuple[tuple[Literal["encoder", "decoder"], Any], ...] = (
            ("encoder", stage.encoder),
            ("decoder", stage.decoder),
        )
        for part, blocks in ways:
            for index, block in enumerate(blocks):
                assert isinstance(block, Block)
                keep = partial(_keep, layers, level, part, index)
                handles.append(block.attention.register_forward_pre_hook(keep))
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()


def queries_keys(module: Attention, x_TD: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
    """Queries (T, H, E) and keys (T, K, E) as the module makes them, in float32."""
    q_THE, k_TKE, _ = module.queries_keys_values(x_TD, rope)
    return q_THE.float(), k_TKE.float()


def _keep(
    layers: list[Layer],
    level: int,
    part: Literal["encoder", "decoder"],
    index: int,
    module: torch.nn.Module,
    args: tuple[Any, ...],
) -> None:
    assert isinstance(module, Attention)
    x_TD, spans, rope, window, causal = args
    q_THE, k_TKE = queries_keys(module, x_TD, rope)
    layers.append(Layer(level, part, index, q_THE, k_TKE, spans, window, causal))
