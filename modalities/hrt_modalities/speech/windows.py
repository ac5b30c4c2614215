"""Streaming with models that are not causal, by overlapping windows of which only the inner steps are used.

Windows begin where groups and blocks of all levels begin. If the receptive field is bounded and small compared with a
window, the result equals that for the whole sample. Otherwise it is close, because each used step has at least half of
the overlap as context on both sides. Memory is constant, and the latency is at most a window.

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
"""The overlap of windows is the window divided by this."""


class WindowStream:
    """The steps of a level, from windows over a sample that arrives in chunks of any size.

    Args:
        encoder: of a trained task, in evaluation mode.
        tokenizer: of the same run.
        level: index of the level.
        tokens: approximate length of a window. It is rounded to whole groups and blocks, and at most doubled if that
            makes a model with a bounded receptive field exact.
        source: arguments of the tokenizer's ``stream``.

    Raises:
        UserError: the model has given groups, which a stream lacks.
        ConfigError: the modality cannot be streamed.
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
        context = reach(config)
        if context is not None:
            context += receptive_field(tokenizer) + lookahead(tokenizer)
        # The margin for exact results, in whole periods.
        needed = full_period if context is None else max(1, -(-context // full_period)) * full_period
        self.exact = context is not None and 4 * needed <= max(2 * tokens, 4 * full_period)
        """Whether steps equal those of the whole sample up to rounding."""
        self.edge = max(1, tokens // (2 * _SHARE) // full_period) * full_period
        """Tokens at each end of a window whose steps come from the neighbouring window."""
        if self.exact:
            self.edge = max(self.edge, needed)
        self.window = max(4 * self.edge, tokens // full_period * full_period)
        self.tokens = token_stream(tokenizer, **source)
        self.device = next(encoder.parameters()).device
        self._pending: Tensor | None = None
        self._first = 0

    def feed(self, chunk: Any) -> Finished:
        """The steps that a raw chunk completes.

        Raises:
            BadSample: the chunk is invalid.
        """
        self._append(self.tokens.feed(chunk))
        chunks = [self._none()]
        while self._pending is not None and len(self._pending) > self.window:
            chunks.append(self._read(self._pending[: self.window], self.window - self.edge))
            hop = self.window - 2 * self.edge
            self._pending, self._first = self._pending[hop:].clone(), self._first + hop
        return Finished.joined(chunks)

    def flush(self) -> Finished:
        """The remaining steps, at the end of the sample."""
        self._append(self.tokens.flush())
        if self._pending is None or not len(self._pending):
            return self._none()
        return self._read(self._pending, len(self._pending))

    def _append(self, raw: Tensor) -> None:
        self._pending = raw if self._pending is None else torch.cat([self._pending, raw])

    def _none(self) -> Finished:
        dim = self.encoder.hierarchy.config.levels[self.level].dim
        empty = torch.zeros(0, dtype=torch.int64).numpy()
        return Finished(torch.zeros(0, dim, device=self.device), empty, empty)

    @torch.inference_mode()
    def _read(self, raw: Tensor, last: int) -> Finished:
        """The steps of a window that begin before its token ``last`` and, except in the first one, after its edge."""
        raw = raw.to(self.device)
        spans = Spans.from_lengths([len(raw)], self.device)
        tokens = Tokens(raw, spans, spans.positions[:, None].float())
        steps = frames_of(self.encoder(tokens), self.encoder.hierarchy.config, self.level)
        first_N, last_N = steps.edges_N2.numpy().T
        inside = (first_N >= (self.edge if self._first else 0)) & (first_N < last)
        rows = torch.from_numpy(inside).to(self.device)
        return Finished(steps.x_ND[rows], first_N[inside] + self._first, last_N[inside] + self._first)


def period(config: HierarchyConfig) -> int:
    """The least common period of groups and blocks of all levels in level-0 tokens, up to the first learned groups."""
    result = step = 1
    for level in config.levels:
        window = level.window_tokens
        # Cross-scale attention divides a level into blocks, even if its windows slide.
        if window is not None and (level.window_type != "sliding" or config.cross_scale.down):
            result = math.lcm(result, step * window)
        if not isinstance(level.group, FixedGroups):
            break
        step *= level.group.longest
        result = math.lcm(result, step)
    return result


def reach(config: HierarchyConfig) -> int | None:
    """The receptive field on each side in level-0 tokens; ``None`` if it is unbounded."""
    total, step = 0, 1
    for index, level in enumerate(config.levels):
        window = level.window_tokens
        has_decoder = config.top_down and index + 1 < len(config.levels)
        layers = [level.depth, level.decoder_depth if has_decoder else 0]
        crossed = config.cross_scale.down and index > 0
        if window is None:
            if any(layers) or crossed:
                return None
        else:
            # Layers over the same blocks reach no further than one layer.
            times = sum(min(1, count) for count in layers) if level.window_type == "block" else sum(layers)
            total += step * window * (times + crossed)
        if index + 1 == len(config.levels):
            break
        if not isinstance(level.group, FixedGroups):
            return None
        step *= level.group.longest
        # Pooling reads, and unpooling writes, up to the ends of a group.
        total += 2 * step
    return total
