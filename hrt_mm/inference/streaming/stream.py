"""A stream over a trained encoder: raw chunks of any size go in, and the tokens of every level come out.

Shapes: N new tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.causal import Flags
from ...core.errors import ConfigError
from ...core.spans import Spans
from ...core.tokens import Tokens
from ...data.capabilities import lookahead, receptive_field, token_stream
from ...data.tokenizer import Tokenizer
from ...tasks.encoder import Encoder
from .levels import Finished, HierarchyStream

PIECE = 1024
"""Tokens that go through the model at once, so that a large chunk needs no more memory than a small one."""


class Stream:
    """A stream of one sample through a causal encoder, in memory that does not grow with its length.

    What it gives, put together, is what the encoder gives for the whole sample, to rounding.

    Args:
        encoder: of a trained task, in evaluation mode.
        tokenizer: of the same run.
        growing: let levels that attend to everything remember ever more.
        source: what the tokenizer's ``stream`` takes: ``rate=44100`` for a sound.

    Raises:
        UserError: the model is not causal, or would remember ever more.
        ConfigError: the modality cannot be read in chunks.
    """

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, *, growing: bool = False, **source: Any) -> None:
        self.levels = HierarchyStream(encoder.hierarchy, growing=growing)
        if later := lookahead(tokenizer):
            raise ConfigError(f"an embedding that sees {later} tokens ahead cannot stream; train without")
        self.encoder, self.tokens = encoder, token_stream(tokenizer, **source)
        self.device = next(encoder.parameters()).device
        self._context = receptive_field(tokenizer) - 1
        self._recent: Tensor | None = None

    @torch.inference_mode()
    def feed(self, chunk: Any, starts: Flags | None = None) -> dict[str, Finished]:
        """Takes in a raw chunk, and gives the tokens that it finishes, by level.

        Args:
            chunk: what the modality's samples are made of, any amount of it.
            starts: by name, (N,) bool, whether a given group starts at each of the level-0 tokens that it completes.

        Raises:
            BadSample: the chunk cannot be used; says why.
            UserError: the stream has ended.
        """
        return joined(self._pieces(self.tokens.feed(chunk), starts or {}))

    @torch.inference_mode()
    def flush(self) -> dict[str, Finished]:
        """What the end of the sample finishes."""
        raw = self.tokens.flush()
        last = self._pieces(raw, self.levels.none_start(len(raw)))
        return joined([*last, self.levels.flush()])

    def _pieces(self, raw: Tensor, starts: Flags) -> list[dict[str, Finished]]:
        """Raw tokens, some at a time."""
        found = []
        for first in range(0, max(1, len(raw)), PIECE):
            piece = slice(first, first + PIECE)
            found.append(self._embedded(raw[piece], {name: own[piece] for name, own in starts.items()}))
        return found

    def _embedded(self, raw: Tensor, starts: Flags) -> dict[str, Finished]:
        """Raw tokens through the embedding, after those before that it looks at, and through the levels."""
        raw = raw.to(self.device)
        known = raw[:0] if self._recent is None else self._recent
        together = torch.cat([known, raw])
        spans = Spans.from_lengths([len(together)], self.device)
        embedded = self.encoder.embedding(Tokens(together, spans, spans.positions[:, None].float()))
        self._recent = together[max(0, len(together) - self._context) :].clone()
        return self.levels.feed(embedded.x[len(known) :], starts)


def joined(parts: list[dict[str, Finished]]) -> dict[str, Finished]:
    """What several chunks finished, by level."""
    return {name: Finished.joined([part[name] for part in parts]) for name in parts[0]}
