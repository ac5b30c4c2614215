"""Windows over a model that is not causal: each is read whole, and of its steps those are kept that lie well inside.

What a window gives is not what the whole sample would give, but nearly: a step that is kept has heard half of the
overlap to both sides at least. Memory is constant, and a step comes a window late at most.

Shapes: T raw tokens, N steps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ctc import steps_of
from ..encoder import Encoder
from ..errors import ConfigError, UserError
from ..levels import FixedGroups, GivenGroups
from ..modality import Tokenizer
from ..spans import Spans
from ..tokens import Tokens
from .levels import Finished

_SHARE = 4
"""A window overlaps the next one by one part in so many."""


class WindowStream:
    """The steps of a level, from windows over a sample that comes in chunks of any size.

    Args:
        encoder: of a trained task, in evaluation mode.
        tokenizer: of the same run.
        level: place of the level that is read.
        tokens: of a window, about; it is made a whole number of the level's groups.
        source: what the tokenizer's ``stream`` takes.

    Raises:
        UserError: the model groups by boundaries that the data gives, which a stream does not have.
        ConfigError: the modality cannot be read in chunks.
    """

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, level: int, tokens: int, **source: Any) -> None:
        config = encoder.hierarchy.config
        if given := [own for own in config.levels if isinstance(own.group, GivenGroups)]:
            raise UserError(f"level {given[0].name!r} groups by boundaries that the data gives; a stream has none")
        if tokenizer.axes != 1:
            raise ConfigError(f"only sequences are read in windows, not tokens on {tokenizer.axes} axes")
        stride = 1
        for own in config.levels[:level]:
            if isinstance(own.group, FixedGroups) and isinstance(own.group.stride, int):
                stride *= own.group.stride
        self.encoder, self.level = encoder, level
        self.edge = max(1, tokens // (2 * _SHARE) // stride) * stride
        """Tokens at each end of a window whose steps are left to the window beside it."""
        self.window = max(4 * self.edge, tokens // stride * stride)
        self.tokens = tokenizer.stream(**source)
        self.device = next(encoder.parameters()).device
        self._kept: Tensor | None = None
        self._first = 0

    def feed(self, chunk: Any) -> Finished:
        """The steps that a raw chunk finishes.

        Raises:
            BadSample: the chunk cannot be used; says why.
        """
        self._take(self.tokens.feed(chunk))
        found = [self._none()]
        while self._kept is not None and len(self._kept) > self.window:
            found.append(self._read(self._kept[: self.window], self.window - self.edge))
            hop = self.window - 2 * self.edge
            self._kept, self._first = self._kept[hop:].clone(), self._first + hop
        return Finished.joined(found)

    def flush(self) -> Finished:
        """The steps that are left, at the end of the sample."""
        self._take(self.tokens.flush())
        if self._kept is None or not len(self._kept):
            return self._none()
        return self._read(self._kept, len(self._kept))

    def _take(self, raw: Tensor) -> None:
        self._kept = raw if self._kept is None else torch.cat([self._kept, raw])

    def _none(self) -> Finished:
        dim = self.encoder.hierarchy.config.levels[self.level].dim
        empty = torch.zeros(0, dtype=torch.int64).numpy()
        return Finished(torch.zeros(0, dim, device=self.device), empty, empty)

    @torch.inference_mode()
    def _read(self, raw: Tensor, last: int) -> Finished:
        """The steps of a window that begin before its token ``last`` and, but for the first one's, not at its start."""
        raw = raw.to(self.device)
        spans = Spans.from_lengths([len(raw)], self.device)
        tokens = Tokens(raw, spans, spans.positions[:, None].float())
        steps = steps_of(self.encoder(tokens), self.encoder.hierarchy.config, self.level)
        first_N, last_N = steps.edges_N2.numpy().T
        inside = (first_N >= (self.edge if self._first else 0)) & (first_N < last)
        rows = torch.from_numpy(inside).to(self.device)
        return Finished(steps.x_ND[rows], first_N[inside] + self._first, last_N[inside] + self._first)
