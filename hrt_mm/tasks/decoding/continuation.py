"""Token sequences that a causal model continues, side by side.

Shapes: B sequences, V ids.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ...core.causal import Memory, prefill, step
from ...core.errors import UserError
from ...core.source import SourceMemory
from ...core.spans import Spans
from ...core.tokens import Tokens
from ...data.capabilities import CausalBoundaries, receptive_field
from ...data.tokenizer import Tokenizer
from ..encoder import Encoder


class TextDecoder(Protocol):
    """A task whose causal encoder predicts the next id: a language model, or the decoder of a source."""

    @property
    def encoder(self) -> Encoder:
        """Embedding and causal hierarchy of the text."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the text."""

    def logits(self, x_TD: Tensor) -> Tensor:
        """(..., D) tokens of level 0 to (..., V) logits of the next tokens, in float32."""


class Continuation:
    """A batch of token sequences that a model continues.

    Args:
        model: in evaluation mode.
        tokens: raw prompts of one token or more each, as its tokenizer gives them.
        source: what the model reads beside them, of as many samples.

    Raises:
        UserError: a prompt is empty.
    """

    @torch.inference_mode()
    def __init__(self, model: TextDecoder, tokens: Tokens, source: SourceMemory | None = None) -> None:
        if int(tokens.spans.lengths.min()) == 0:
            raise UserError("a prompt has no token; start with the tokenizer's separator")
        tokens = tokens.to(model.encoder.hierarchy.like.device)
        pyramid, cache = prefill(model.encoder.hierarchy, model.encoder.embedding(tokens), source)
        last_B = tokens.spans.host[1:].to(tokens.device) - 1
        recent = [ids[-receptive_field(model.tokenizer) :] for ids in tokens.split()]
        self._begin(model, cache, model.logits(pyramid[0].x[last_B]), recent)

    def _begin(self, model: TextDecoder, cache: Memory, logits_BV: Tensor, recent: list[Tensor]) -> None:
        self.decoder, self.tokenizer = model, model.tokenizer
        self.cache, self.logits_BV, self._recent = cache, logits_BV, recent

    def __len__(self) -> int:
        return len(self._recent)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.cache.levels[0].count_B.max(initial=0))

    @torch.inference_mode()
    def step(self, ids_B: Tensor) -> Tensor:
        """Appends a token to every sequence, and returns the logits of the one after it, (B, V)."""
        # All sequences may have been deselected.
        if not len(self):
            return self.logits_BV
        previous_B = torch.stack([ids[-1] for ids in self._recent])
        starts = {}
        if names := self.cache.given:
            # Models that group by boundaries which look ahead are refused before training.
            assert isinstance(self.tokenizer, CausalBoundaries)
            starts = {name: self.tokenizer.starts(name, previous_B, ids_B).cpu().numpy() for name in names}
        count = receptive_field(self.tokenizer)
        # The embedding may see several tokens back, so it gets the recent ones, and the last row is the new token's.
        self._recent = [torch.cat([ids, new[None]])[-count:] for ids, new in zip(self._recent, ids_B, strict=True)]
        spans = Spans.from_lengths([len(ids) for ids in self._recent], ids_B.device)
        tokens = Tokens(torch.cat(self._recent), spans, spans.positions[:, None].float())
        x_BD = self.decoder.encoder.embedding(tokens).x[spans.host[1:].to(ids_B.device) - 1]
        self.logits_BV = self.decoder.logits(step(self.decoder.encoder.hierarchy, x_BD, self.cache, starts))
        return self.logits_BV

    def select(self, samples: list[int]) -> None:
        """Keeps only the given sequences, in this order. An index may occur more than once."""
        self.cache.select(samples)
        self._recent = [self._recent[sample] for sample in samples]
        self.logits_BV = self.logits_BV[samples]
