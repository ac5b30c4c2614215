"""Pieces of samples that the data gives, such as words: which tokens of a level lie in each, and their mean.

Shapes: P pieces, n samples, T tokens of a level, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import BadSample
from ..core.spans import Spans
from ..core.tokens import Tokens
from ..data.capabilities import steps_at
from ..data.sample import Piece, Sample
from ..data.tokenizer import Tokenizer
from .fingerprints import fingerprint

MIDDLE = 0.5
"""A step's middle, from its coordinate, in steps."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """The pieces of the samples of a tower; all on the host.

    Args:
        edges_P2: start and end of each along the first axis, in level-0 steps.
        samples: the samples over them, n runs.
        keys_P: int64, equal for those that are positives of each other.
    """

    edges_P2: Tensor
    samples: Spans
    keys_P: Tensor

    @classmethod
    def of(cls, samples: Sequence[Sample], tower: str, tier: str, tokenizer: Tokenizer) -> Pieces:
        """What samples have of a tier in a tower. A piece that is not in this tower is missing.

        Args:
            samples: that have the modality, in order.
            tower: which tower.
            tier: which of the data's pieces.
            tokenizer: of the tower.

        Raises:
            BadSample: a sample does not carry the tier, or a piece has no length or lies before its sample.
        """
        edges: list[float] = []
        keys: list[int] = []
        counts: list[int] = []
        for sample in samples:
            sample_pieces = _with_keys(sample, tier, tower)
            counts.append(len(sample_pieces))
            keys += [key for _, key in sample_pieces]
            flat = [position for piece, _ in sample_pieces for position in _checked(sample, piece, tower)]
            edges += steps_at(tokenizer, sample.value[tower], flat)
        edges_P2 = torch.tensor(edges, dtype=torch.float32).view(-1, 2)
        return cls(edges_P2, Spans.from_lengths(counts), torch.tensor(keys, dtype=torch.int64))

    def some(self, first: int, last: int) -> Pieces:
        """Those of the samples from ``first`` up to ``last``, which is not among them."""
        offsets = self.samples.host[first : last + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        return Pieces(self.edges_P2[rows], Spans(offsets - offsets[0]), self.keys_P[rows])

    def means(self, tokens: Tokens) -> Tensor:
        """(P, D) the mean of the tokens whose middles lie in each piece; where none does, of the nearest.

        Args:
            tokens: of a level, of the same samples.
        """
        if not len(self.keys_P):
            return tokens.x[:0]
        edges_P2 = self.edges_P2.to(tokens.device)
        middle_T = tokens.coords_TC[:, 0] + MIDDLE
        same_sample_PT = self.samples.ids.to(tokens.device)[:, None] == tokens.spans.ids[None]
        inside_PT = same_sample_PT & (edges_P2[:, :1] <= middle_T) & (middle_T < edges_P2[:, 1:])
        # A piece may be shorter than a token of a coarse level, and then has the nearest one's.
        away_PT = (middle_T - edges_P2.mean(1, keepdim=True)).abs().masked_fill(~same_sample_PT, math.inf)
        nearest_PT = away_PT == away_PT.amin(1, keepdim=True)
        weight_PT = torch.where(inside_PT.any(1, keepdim=True), inside_PT, nearest_PT).to(tokens.x.dtype)
        return (weight_PT @ tokens.x) / weight_PT.sum(1, keepdim=True)


def _with_keys(sample: Sample, tier: str, tower: str) -> list[tuple[Piece, int]]:
    if tier not in sample.pieces:
        available = ", ".join(sample.pieces) or "none"
        raise BadSample(sample.name, f"carries no pieces {tier!r}, which task.also compares; it has {available}")
    pieces = enumerate(sample.pieces[tier])
    return [
        (piece, fingerprint("piece", (piece.label or f"{sample.name}\0{number}").encode()))
        for number, piece in pieces
        if tower in piece.where
    ]


def _checked(sample: Sample, piece: Piece, tower: str) -> tuple[float, float]:
    start, end = piece.where[tower]
    if not 0 <= start < end < math.inf:
        raise BadSample(
            sample.name, f"has a piece {piece.label!r} from {start:g} to {end:g} of {tower}; mend its edges"
        )
    return start, end
