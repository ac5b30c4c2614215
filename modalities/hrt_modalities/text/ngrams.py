"""Embeddings of hashed n-grams, with which small text data learns as much as linear models of n-grams do.

Each token has the sum of the vectors of the n-grams that end at it, as in the Byte Latent Transformer (arXiv
2412.09871). Averaged over the bytes of a word, these resemble the word vectors of fastText (arXiv 1607.04606): related
words share n-grams, and new words have known ones. No n-gram looks ahead, so causal models may have them.

Shapes: T tokens, N sizes of n-grams, D width.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, field_validator
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm.core.component import Component
from hrt_mm.core.tokens import Tokens

_PRIME = (1 << 31) - 1
"""Hashes are below it, so that the product of two fits into 64 bits."""
_BASE, _SPREAD = 1_664_525, 1_013_904_223
_SPACE = ord(" ")
_UPPER, _TO_LOWER = (ord("A"), ord("Z")), ord("a") - ord("A")


class NgramConfig(Component):
    """Vectors of hashed n-grams, added to the embedding of each token."""

    sizes: Annotated[tuple[Annotated[int, Field(ge=2, le=64)], ...], Field(min_length=1)] = (3, 4, 5, 6)
    """Lengths of the n-grams in tokens, ascending."""
    buckets: Annotated[int, Field(ge=2, le=1 << 28)] = 1 << 16
    """Number of vectors; n-grams with the same hash share one."""
    scale: PositiveFloat = 3.0
    """Factor of the vectors, which learn faster by as much. It makes up for the mean over the bytes of a word."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that an n-gram is left out in training."""

    @field_validator("sizes")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if sorted(set(value)) != list(value):
            raise ValueError(f"sizes must rise, got {list(value)}")
        return value


class HashedNgrams(nn.Module):
    """The sum of the vectors of the n-grams that end at each token.

    Args:
        config: the n-grams.
        dim: width.
        reads_bytes: whether ids are bytes. N-grams then ignore the case of ASCII letters, and a text begins as if it
            followed a space, so that its first word has the n-grams that it has elsewhere.
    """

    def __init__(self, config: NgramConfig, dim: int, *, reads_bytes: bool) -> None:
        super().__init__()
        self.config, self.reads_bytes = config, reads_bytes
        # Row 0 stands for n-grams that would begin before the text.
        self.weight = nn.Parameter(torch.empty(config.buckets + 1, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Zeros, so that n-grams which training never met change nothing."""
        nn.init.zeros_(self.weight)

    def forward(self, tokens: Tokens) -> Tensor:
        """(T, D) of ids (T,)."""
        buckets_TN = self.buckets(tokens.x, tokens.spans.positions)
        scale = self.config.scale
        if self.training and self.config.dropout:
            left_out_TN = torch.rand(buckets_TN.shape, device=buckets_TN.device) < self.config.dropout
            buckets_TN = buckets_TN.masked_fill(left_out_TN, 0)
            scale /= 1 - self.config.dropout
        return scale * functional.embedding_bag(buckets_TN, self.weight, mode="sum", padding_idx=0)

    def buckets(self, ids_T: Tensor, positions_T: Tensor) -> Tensor:
        """(T, N) rows of the n-grams that end at each token; 0 where one would begin before its text.

        Args:
            ids_T: the tokens.
            positions_T: of each in its text.
        """
        if self.reads_bytes:
            ids_T = ids_T + _TO_LOWER * ((ids_T >= _UPPER[0]) & (ids_T <= _UPPER[1]))
        hash_T = ids_T + 1
        rows = []
        for size in range(2, self.config.sizes[-1] + 1):
            # The polynomial hash of the n-gram that has one token less and ends at the token before.
            before_T = hash_T.roll(1, 0).masked_fill(positions_T == 0, _SPACE + 1)
            hash_T = (before_T * _BASE + ids_T + 1) % _PRIME
            if size in self.config.sizes:
                row_T = 1 + (hash_T * _SPREAD + size) % _PRIME % self.config.buckets
                rows.append(row_T.masked_fill(positions_T < size - 1 - self.reads_bytes, 0))
        return torch.stack(rows, 1)


class NgramEmbedding(nn.Module):
    """An embedding of tokens, with the vectors of n-grams added.

    Args:
        embedding: of the tokens.
        ngrams: of the n-grams.
    """

    def __init__(self, embedding: nn.Module, ngrams: HashedNgrams) -> None:
        super().__init__()
        self.embedding, self.ngrams = embedding, ngrams

    def forward(self, tokens: Tokens) -> Tokens:
        """(T,) ids to (T, D)."""
        embedded: Tokens = self.embedding(tokens)
        return embedded.with_x(embedded.x + self.ngrams(tokens).to(embedded.x.dtype))
