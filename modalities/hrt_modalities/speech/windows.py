"""Windows over a model that is not causal: each is read whole, and of its steps those are kept that lie well inside.

Windows begin where groups and blocks of all levels begin. A model of local reach gives what the whole sample would give
where its reach is small beside a window; another one nearly so, as a step that is kept has heard half of the overlap to
both sides at least. Memory is constant, and a step comes a window late at most.

Shapes: T raw tokens, N steps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hrt_mm.core.errors import ConfigError, UserError
from hrt_mm.core.levels import FixedGroups, GivenGroups, HierarchyConfig
from hrt_mm.core.spans import Spans
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.capabilities import lookahead, receptive_field, token_stream
from hrt_mm.data.tokenizer import Tokenizer
from hrt_mm.inference.streaming.levels import Finished
from hrt_mm.tasks.ctc import frames_of
from hrt_mm.tasks.encoder import Encoder

_SHARE = 4
"""A window overlaps the next one by one part in so many."""


class WindowStream:
    """The steps of a level, from windows over a sample that comes in chunks of any size.

    Args:
        encoder: of a trained task, in evaluation mode.
        tokenizer: of the same run.
        level: place of the level that is read.
        tokens: of a window, about: it is made a whole number of groups and blocks, and longer, twice at most, where a
            model of local reach is exact then.
        source: what the tokenizer's ``stream`` takes.

    Raises:
        UserError: the model groups by boundaries that the data gives, which a stream does not have.
        ConfigError: the modality cannot be read in chunks.
    """

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, level: int, tokens: int, **source: Any) -> None:
        config = encoder.hierarchy.config
        if given_levels := [fine for fine in config.levels if isinstance(fine.group, GivenGroups)]:
            raise UserError(
                f"level {given_levels[0].name!r} groups by boundaries that the data gives; a stream has none"
            )
        if tokenizer.axes != 1:
            raise ConfigError(f"only sequences are read in windows, not tokens on {tokenizer.axes} axes")
        full_period = period(config)
        self.encoder, self.level = encoder, level
        seen = reach(config)
        if seen is not None:
            seen += receptive_field(tokenizer) + lookahead(tokenizer)
        needed = full_period if seen is None else max(1, -(-seen // full_period)) * full_period
        self.exact = seen is not None and 4 * needed <= max(2 * tokens, 4 * full_period)
        """Whether steps are those of the whole sample, but for rounding."""
        self.edge = max(1, tokens // (2 * _SHARE) // full_period) * full_period
        """Tokens at each end of a window whose steps are left to the window beside it."""
        if self.exact:
            self.edge = max(self.edge, needed)
        self.window = max(4 * self.edge, tokens // full_period * full_period)
        self.tokens = token_stream(tokenizer, **source)
        self.device = next(encoder.parameters()).device
        self._pending: Tensor | None = None
        self._first = 0

    def feed(self, chunk: Any) -> Finished:
        """The steps that a raw chunk finishes.

        Raises:
            BadSample: the chunk cannot be used.
        """
        self._take(self.tokens.feed(chunk))
        chunks = [self._none()]
        while self._pending is not None and len(self._pending) > self.window:
            chunks.append(self._read(self._pending[: self.window], self.window - self.edge))
            hop = self.window - 2 * self.edge
            self._pending, self._first = self._pending[hop:].clone(), self._first + hop
        return Finished.joined(chunks)

    def flush(self) -> Finished:
        """The steps that are left, at the end of the sample."""
        self._take(self.tokens.flush())
        if self._pending is None or not len(self._pending):
            return self._none()
        return self._read(self._pending, len(self._pending))

    def _take(self, raw: Tensor) -> None:
        self._pending = raw if self._pending is None else torch.cat([self._pending, raw])

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
        steps = frames_of(self.encoder(tokens), self.encoder.hierarchy.config, self.level)
        first_N, last_N = steps.edges_N2.numpy().T
        inside = (first_N >= (self.edge if self._first else 0)) & (first_N < last)
        rows = torch.from_numpy(inside).to(self.device)
        return Finished(steps.x_ND[rows], first_N[inside] + self._first, last_N[inside] + self._first)


def period(config: HierarchyConfig) -> int:
    """Level-0 tokens after which groups and blocks of all levels begin together; up to the first learned groups."""
    result = step = 1
    for level in config.levels:
        window = level.window_tokens
        # What other levels see of a level is cut into blocks, under sliding windows too.
        if window is not None and (level.window_type != "sliding" or config.cross_scale.down):
            result = math.lcm(result, step * window)
        if not isinstance(level.group, FixedGroups):
            break
        step *= level.group.longest
        result = math.lcm(result, step)
    return result


def reach(config: HierarchyConfig) -> int | None:
    """How many level-0 tokens to each side change a token, at most; ``None`` where nothing bounds it."""
    total, step = 0, 1
    for index, level in enumerate(config.levels):
        window = level.window_tokens
        comes_back = config.top_down and index + 1 < len(config.levels)
        layers = [level.depth, level.decoder_depth if comes_back else 0]
        seen = config.cross_scale.down and index > 0
        if window is None:
            if any(layers) or seen:
                return None
        else:
            # Layers over the same blocks reach no further than one of them.
            times = sum(min(1, count) for count in layers) if level.window_type == "block" else sum(layers)
            total += step * window * (times + seen)
        if index + 1 == len(config.levels):
            break
        if not isinstance(level.group, FixedGroups):
            return None
        step *= level.group.longest
        # A group is made of tokens up to its ends, and gives them what it is.
        total += 2 * step
    return total
