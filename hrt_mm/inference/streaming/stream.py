"""Streaming through a trained encoder: raw chunks of any size in, finished tokens of every level out.

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
"""Most tokens per call of the model, which bounds the memory that a large chunk takes."""


class Stream:
    """Runs one sample through a causal encoder, chunk by chunk, in constant memory.

    The outputs of all chunks together equal those of the encoder for the whole sample, up to rounding.

    Args:
        encoder: of a trained task, in evaluation mode.
        tokenizer: of the same run.
        growing: allow memory to grow with the length of the sample, for levels that attend to everything.
        source: arguments of the tokenizer's ``stream``, such as ``rate=44100`` for sound.

    Raises:
        UserError: the model is not causal, or needs memory that grows.
        ConfigError: the modality cannot be read in chunks.
    """

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, *, growing: bool = False, **source: Any) -> None:
        self.levels = HierarchyStream(encoder.hierarchy, growing=growing)
        if ahead := lookahead(tokenizer):
            raise ConfigError(f"an embedding that sees {ahead} tokens ahead cannot stream; train without")
        self.encoder, self.tokens = encoder, token_stream(tokenizer, **source)
        self.device = next(encoder.parameters()).device
        self._context = receptive_field(tokenizer) - 1
        self._recent: Tensor | None = None

    @torch.inference_mode()
    def feed(self, chunk: Any, starts: Flags | None = None) -> dict[str, Finished]:
        """Returns the tokens of each level that a raw chunk finishes.

        Args:
            chunk: raw data of the modality, of any length.
            starts: by name, (N,) bool, whether a given group starts at each of the level-0 tokens that it completes.

        Raises:
            BadSample: the chunk cannot be used.
            UserError: the stream has ended.
        """
        return joined(self._pieces(self.tokens.feed(chunk), starts or {}))

    @torch.inference_mode()
    def flush(self) -> dict[str, Finished]:
        """Returns the tokens that the end of the sample finishes."""
        raw = self.tokens.flush()
        # The end of the input may complete tokens that no boundary was given for.
        last = self._pieces(raw, self.levels.none_start(len(raw)))
        return joined([*last, self.levels.flush()])

    def _pieces(self, raw: Tensor, starts: Flags) -> list[dict[str, Finished]]:
        """Runs raw tokens through the model, at most ``PIECE`` at a time."""
        parts = []
        # At least one piece, possibly empty, so that there is a result to join.
        for first in range(0, max(1, len(raw)), PIECE):
            piece = slice(first, first + PIECE)
            parts.append(self._embedded(raw[piece], {name: flags[piece] for name, flags in starts.items()}))
        return parts

    def _embedded(self, raw: Tensor, starts: Flags) -> dict[str, Finished]:
        """Embeds raw tokens, after those before them in the receptive field, and runs the levels."""
        raw = raw.to(self.device)
        context = raw[:0] if self._recent is None else self._recent
        # The context is embedded again for the sake of the new tokens, and its own rows are dropped below.
        together = torch.cat([context, raw])
        spans = Spans.from_lengths([len(together)], self.device)
        embedded = self.encoder.embedding(Tokens(together, spans, spans.positions[:, None].float()))
        self._recent = together[max(0, len(together) - self._context) :].clone()
        return self.levels.feed(embedded.x[len(context) :], starts)


def joined(parts: list[dict[str, Finished]]) -> dict[str, Finished]:
    """The tokens that several chunks finished, by level."""
    return {name: Finished.joined([part[name] for part in parts]) for name in parts[0]}
