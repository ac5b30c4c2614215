"""Cross-attention of the blocks of a hierarchy to levels of another one, its source: a decoder that reads a pyramid.

A query sees all tokens of the source's sample, so causality within the decoder is not affected. Keys and values are
computed once for a source, and serve the forward pass as well as every incremental one.

Shapes: B samples, T tokens of the decoder's level, S tokens of the source, D width of the decoder's level, H heads,
E head width, P position features, A samples with new tokens, N new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .attention import attend
from .host import on_host
from .linear import InitLinear
from .norm import rms_norm
from .rope import Rotary
from .spans import Spans

if TYPE_CHECKING:
    from .causal.new_tokens import NewTokens

_POSITION_FEATURES = 64
_attend_outside_graphs = on_host(attend)

Read = Callable[[Tensor], Tensor]
"""The branch that a block adds for its source: normalized (T, D) tokens to (T, D)."""
Attend = Callable[[Tensor], Tensor]
"""(T, H, E) queries to attention outputs."""


class Positions(nn.Module):
    """Sines and cosines of the coordinates of tokens (arXiv 1706.03762), through a linear map.

    Attention within a hierarchy depends on distances alone. Across hierarchies there are none, as their axes differ.

    Args:
        axes: number of coordinate axes.
        dim: width of the tokens.
        theta: base of the frequencies.
        unit: level-0 units per unit of the coordinates, along each axis.
    """

    def __init__(self, axes: int, dim: int, theta: float, unit: Sequence[float]) -> None:
        super().__init__()
        self.rotary, self.unit = Rotary(_POSITION_FEATURES, axes, theta), tuple(unit)
        self.out = nn.Linear(_POSITION_FEATURES, dim, bias=False)

    def forward(self, coords_TC: Tensor) -> Tensor:
        """(T, C) coordinates in level-0 units to (T, D)."""
        weight = self.out.weight
        unit_C = torch.tensor(self.unit, device=coords_TC.device)
        rotations_TF = self.rotary.rotations(coords_TC, unit_C, weight)[:, 0]
        mapped_TD: Tensor = self.out(torch.view_as_real(rotations_TF).flatten(1).to(weight.dtype))
        return mapped_TD


class SourceAttention(nn.Module):
    """Attention of one block to the source, with normalized queries and keys. Its output is initialized to zero.

    Args:
        dim: width of the block.
        heads: number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, dim // heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.q_gain = nn.Parameter(torch.empty(heads, 1))
        self.out = InitLinear(dim, dim, nn.init.zeros_)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitializes the parameters that this module owns directly."""
        nn.init.ones_(self.q_gain)

    def forward(self, x_TD: Tensor, attention: Attend) -> Tensor:
        """Attention output of normalized tokens, (T, D)."""
        q_THE = self.query(x_TD).unflatten(-1, (self.heads, self.width))
        q_THE = (_normed(q_THE) * self.q_gain).to(q_THE.dtype)
        mixed_TD: Tensor = self.out(attention(q_THE).flatten(1))
        return mixed_TD

    def keys_values(self, source_SD: Tensor) -> tuple[Tensor, Tensor]:
        """Normalized keys, and values, (S, H, E) each."""
        k_SHE, v_SHE = self.key_value(source_SD).unflatten(-1, (2 * self.heads, self.width)).chunk(2, 1)
        return _normed(k_SHE).to(v_SHE.dtype), v_SHE


@dataclass(eq=False)
class LevelSource:
    """The keys and values that a level of the decoder reads.

    Args:
        blocks: the attention of each block, encoder blocks first.
        positions: of the decoder's tokens.
        backend: of attention.
        keys_values: (S, H, E) keys and values of each block, packed.
        spans: the samples.
    """

    blocks: Sequence[SourceAttention]
    positions: Positions
    backend: str
    keys_values: list[tuple[Tensor, Tensor]]
    spans: Spans
    _padded: list[tuple[Tensor, Tensor]] | None = field(default=None, init=False)
    _mask: Tensor | None = field(default=None, init=False)

    def reads(self, coords_TC: Tensor, samples: Spans) -> list[Read]:
        """The branch of each block, encoder blocks first, for whole samples.

        Args:
            coords_TC: of the level's tokens, in level-0 units.
            samples: their samples, as many as of the source.
        """
        position_TD = self.positions(coords_TC)
        return [
            partial(_read, block, position_TD, partial(self._attend, *pair, samples, self.spans))
            for block, pair in zip(self.blocks, self.keys_values, strict=True)
        ]

    def new_reads(self, position_N: Tensor, new: NewTokens) -> list[Read]:
        """The branch of each block, encoder blocks first, for new tokens of an incremental pass.

        Args:
            position_N: their positions, in level-0 units.
            new: their samples.
        """
        position_ND = self.positions(position_N[:, None])
        if new.single:
            attends: list[Attend] = [partial(self._attend_single, *pair, new) for pair in self._padding()]
        elif new.whole_batch:
            attends = [partial(self._attend, *pair, new.spans, self.spans) for pair in self.keys_values]
        else:
            rows, spans = _rows(self.spans, new.samples)
            attends = [
                partial(self._attend, k_SHE[rows], v_SHE[rows], new.spans, spans) for k_SHE, v_SHE in self.keys_values
            ]
        blocks = zip(self.blocks, attends, strict=True)
        return [partial(_read, block, position_ND, attention) for block, attention in blocks]

    def select(self, samples: np.ndarray) -> LevelSource:
        """These samples, in this order; one may occur more than once."""
        rows, spans = _rows(self.spans, samples)
        pairs = [(k_SHE[rows], v_SHE[rows]) for k_SHE, v_SHE in self.keys_values]
        return LevelSource(self.blocks, self.positions, self.backend, pairs, spans)

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        pairs = [*self.keys_values, *(self._padded or ())]
        return sum(tensor.nbytes for pair in pairs for tensor in pair)

    def _attend(self, k_SHE: Tensor, v_SHE: Tensor, q_spans: Spans, k_spans: Spans, q_THE: Tensor) -> Tensor:
        k_SHE, v_SHE = k_SHE.to(q_THE.dtype), v_SHE.to(q_THE.dtype)
        return _attend_outside_graphs(q_THE, k_SHE, v_SHE, q_spans, k_spans, backend=self.backend)

    def _attend_single(self, k_BHSE: Tensor, v_BHSE: Tensor, new: NewTokens, q_AHE: Tensor) -> Tensor:
        """Attention of one query per sample: dense, as ragged runs would be planned anew in every step."""
        k_AHSE, v_AHSE = (new.take(x).to(q_AHE.dtype) for x in (k_BHSE, v_BHSE))
        mask = None if self._mask is None else new.take(self._mask)
        out = scaled_dot_product_attention(q_AHE[:, :, None], k_AHSE, v_AHSE, attn_mask=mask)[:, :, 0]
        # A query that sees no key is zero, as in `attend`.
        return out.nan_to_num() if self.spans.has_empty else out

    def _padding(self) -> list[tuple[Tensor, Tensor]]:
        """(B, H, S, E) keys and values of each block."""
        if self._padded is None:
            device, longest = self.spans.device, max(1, self.spans.max_seqlen)
            slots_BS = torch.arange(longest, device=device) < self.spans.counts[:, None]
            self._mask = None if self.spans.uniform else slots_BS[:, None, None]

            def padded(x_SHE: Tensor) -> Tensor:
                empty = x_SHE.new_zeros(*slots_BS.shape, *x_SHE.shape[1:])
                return empty.masked_scatter(slots_BS[..., None, None], x_SHE).transpose(1, 2).contiguous()

            self._padded = [(padded(k_SHE), padded(v_SHE)) for k_SHE, v_SHE in self.keys_values]
        return self._padded


@dataclass(eq=False)
class SourceMemory:
    """What a decoder reads, by index of its level.

    Args:
        levels: keys and values; levels that read nothing are left out.
    """

    levels: Mapping[int, LevelSource]

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.levels.values())).spans)

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return sum(level.nbytes for level in self.levels.values())

    def select(self, samples: Sequence[int] | np.ndarray) -> SourceMemory:
        """These samples, in this order; one may occur more than once."""
        rows = np.asarray(samples, dtype=np.int64)
        return SourceMemory({index: level.select(rows) for index, level in self.levels.items()})


def _read(block: SourceAttention, position_TD: Tensor, attention: Attend, x_TD: Tensor) -> Tensor:
    branch_TD: Tensor = block(x_TD + position_TD.to(x_TD.dtype), attention)
    return branch_TD


def _normed(x_SHE: Tensor) -> Tensor:
    return rms_norm(x_SHE if x_SHE.dtype == torch.float64 else x_SHE.float())


def _rows(spans: Spans, samples: np.ndarray) -> tuple[Tensor, Spans]:
    """The rows of some samples, and these as spans."""
    lengths, first = spans.lengths.numpy()[samples], spans.host.numpy()[samples]
    chosen = Spans.from_lengths(torch.from_numpy(lengths), spans.device)
    offsets = chosen.host.numpy()[:-1]
    rows = np.repeat(first - offsets, lengths) + np.arange(chosen.total)
    return torch.from_numpy(rows).to(spans.device), chosen
