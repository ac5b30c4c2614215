"""From scored steps to symbols in time, and from characters to words, as they are finished.

Shapes: N steps, K symbols and the blank, which is the last.
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
    """Steps in a row with the same likeliest symbol."""

    symbol: int
    first: int
    last: int
    log_prob: float
    count: int


class GreedyStream:
    """Greedy CTC on steps that come in chunks: each run of one likeliest symbol, once another step has ended it.

    What it gives, put together, is what :func:`hrt_mm.tasks.ctc.greedy` gives for all steps at once.

    Args:
        symbols: what is told apart; the blank stands behind them.
        unit: seconds of a level-0 token.
        told: turns what comes in into log-probabilities of the symbols and the blank; they are the same when absent.
    """

    def __init__(self, symbols: Sequence[str], unit: float, told: Callable[[Tensor], Tensor] | None = None) -> None:
        self.symbols, self.unit = symbols, unit
        self.told = told or (lambda raw_NK: raw_NK)
        self._run: _Run | None = None

    def feed(self, raw_NK: Tensor, first_N: np.ndarray, last_N: np.ndarray) -> list[TimeSpan]:
        """Takes in steps, each with the level-0 tokens that it begins with and ends before."""
        best = self.told(raw_NK).max(-1)
        found = []
        rows = zip(best.indices.tolist(), best.values.tolist(), first_N.tolist(), last_N.tolist(), strict=True)
        for symbol, log_prob, first, last in rows:
            run = self._run
            if run is not None and run.symbol == symbol:
                run.last, run.log_prob, run.count = last, run.log_prob + log_prob, run.count + 1
                continue
            found += self._ended()
            self._run = _Run(symbol, first, last, log_prob, 1)
        return found

    def flush(self) -> list[TimeSpan]:
        """What the end of the steps finishes."""
        found = self._ended()
        self._run = None
        return found

    def _ended(self) -> list[TimeSpan]:
        run = self._run
        if run is None or run.symbol == len(self.symbols):
            return []
        score = math.exp(run.log_prob / run.count)
        return [TimeSpan(run.first * self.unit, run.last * self.unit, self.symbols[run.symbol], score)]


class Spelled:
    """Puts characters together to words, which spaces part. A word is finished by the space after it.

    Args:
        space: the character that parts words.
    """

    def __init__(self, space: str = " ") -> None:
        self.space = space
        self._open: list[TimeSpan] = []

    def feed(self, characters: Iterable[TimeSpan]) -> list[TimeSpan]:
        """The words that characters finish."""
        found = []
        for one in characters:
            if one.label == self.space:
                found += self.flush()
            else:
                self._open.append(one)
        return found

    def flush(self) -> list[TimeSpan]:
        """The word that is open, where one is."""
        if not self._open:
            return []
        characters, self._open = self._open, []
        return [merge_spans("".join(character.label for character in characters), characters)]
