"""Streaming greedy decoding of frames to symbols with times, and of characters to words.

Shapes: N frames, K symbols and the blank, which is the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...data.time_span import TimeSpan, merge_spans


@dataclass
class _Run:
    """Consecutive frames with the same likeliest symbol."""

    symbol: int
    first: int
    last: int
    log_prob: float
    count: int


class GreedyStream:
    """Greedy CTC on frames that come in chunks: returns a symbol once the next frame has another one.

    The symbols of all chunks are those of :func:`hrt_mm.tasks.ctc.greedy` over all frames at once.

    Args:
        symbols: in the order of the outputs; the blank is the last output.
        unit: seconds per level-0 token.
        merge_silence: maps incoming log-probabilities to those of the symbols and the blank; none when absent.
    """

    def __init__(
        self, symbols: Sequence[str], unit: float, merge_silence: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.symbols, self.unit = symbols, unit
        self.merge_silence = merge_silence or (lambda log_probs_NK: log_probs_NK)
        self._run: _Run | None = None

    def feed(self, raw_NK: Tensor, first_N: np.ndarray, last_N: np.ndarray) -> list[TimeSpan]:
        """Adds frames with the first and end level-0 token of each; returns the symbols that have ended."""
        best = self.merge_silence(raw_NK).max(-1)
        spans = []
        rows = zip(best.indices.tolist(), best.values.tolist(), first_N.tolist(), last_N.tolist(), strict=True)
        for symbol, log_prob, first, last in rows:
            run = self._run
            if run is not None and run.symbol == symbol:
                run.last, run.log_prob, run.count = last, run.log_prob + log_prob, run.count + 1
                continue
            spans += self._finish_run()
            self._run = _Run(symbol, first, last, log_prob, 1)
        return spans

    def flush(self) -> list[TimeSpan]:
        """The symbol of the last frames, if any."""
        spans = self._finish_run()
        self._run = None
        return spans

    def _finish_run(self) -> list[TimeSpan]:
        run = self._run
        # A run of blanks separates symbols and is none itself.
        if run is None or run.symbol == len(self.symbols):
            return []
        # The geometric mean over its frames: a long symbol is not less certain for being long.
        score = math.exp(run.log_prob / run.count)
        return [TimeSpan(run.first * self.unit, run.last * self.unit, self.symbols[run.symbol], score)]


class WordJoiner:
    """Joins characters to words. A word is finished by the space after it.

    Args:
        space: the character between words.
    """

    def __init__(self, space: str = " ") -> None:
        self.space = space
        self._open: list[TimeSpan] = []

    def feed(self, characters: Iterable[TimeSpan]) -> list[TimeSpan]:
        """Adds characters; returns the words that they finish."""
        words = []
        for character in characters:
            if character.label == self.space:
                words += self.flush()
            else:
                self._open.append(character)
        return words

    def flush(self) -> list[TimeSpan]:
        """The unfinished word, if any."""
        if not self._open:
            return []
        characters, self._open = self._open, []
        return [merge_spans("".join(character.label for character in characters), characters)]
