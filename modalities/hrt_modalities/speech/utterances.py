"""Decoders that weigh whole utterances, on steps that come in chunks: each utterance is decoded once a pause ends it.

Shapes: N steps, K symbols and the blank, which is the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hrt_mm.data.time_span import TimeSpan, merge_spans
from hrt_mm.tasks.ctc import Hypothesis, Placed
from hrt_mm.tasks.ctc.alignment import forced_alignment
from hrt_mm.tasks.ctc.lexicon import Lexicon

PAUSE_S, LONGEST_S = 0.3, 20.0
"""Seconds of blanks that end an utterance, and the longest one, which is cut where a blank is likeliest."""


class UtteranceStream:
    """Symbols in time, or the words of a lexicon, an utterance at once.

    Args:
        decode: gives what is said from the scores of an utterance's steps.
        symbols: what is told apart; the blank stands behind them.
        unit: seconds of a level-0 token (a level-0 token, where time has no unit: pauses are then that many tokens).
        lexicon: the words that ``decode`` writes, where it does.
        told: turns what comes in into the log-probabilities that are decoded; they are the same when absent.
        placed: lays symbols along what came in.
    """

    def __init__(
        self,
        decode: Callable[[Tensor], Hypothesis],
        symbols: Sequence[str],
        unit: float,
        lexicon: Lexicon | None = None,
        told: Callable[[Tensor], Tensor] | None = None,
        placed: Callable[[Tensor, Sequence[int], str], list[Placed]] = forced_alignment,
    ) -> None:
        self.decode, self.symbols, self.unit, self.lexicon = decode, symbols, unit, lexicon
        self.told = told or (lambda raw_NK: raw_NK)
        self.placed = placed
        self._raw: list[Tensor] = []
        self._told_NK = torch.zeros(0, len(symbols) + 1)
        self._edges_N2 = np.zeros((0, 2), dtype=np.int64)

    def feed(self, raw_NK: Tensor, first_N: np.ndarray, last_N: np.ndarray) -> list[TimeSpan]:
        """Takes in steps, each with the level-0 tokens that it begins with and ends before."""
        self._raw += raw_NK.unbind()
        self._told_NK = torch.cat([self._told_NK, self.told(raw_NK)])
        self._edges_N2 = np.concatenate([self._edges_N2, np.stack([first_N, last_N], 1)])
        found: list[TimeSpan] = []
        while (count := self._whole()) is not None:
            found += self._take(count)
        return found

    def flush(self) -> list[TimeSpan]:
        """What the end of the steps finishes."""
        return self._take(len(self._told_NK))

    def _whole(self) -> int | None:
        """Steps of the utterance that a pause has ended, or that is too long; ``None`` where there is none."""
        if not len(self._told_NK):
            return None
        quiet_N = (self._told_NK.argmax(-1) == len(self.symbols)).numpy()
        time_N2 = self._edges_N2 * self.unit
        speech = np.flatnonzero(~quiet_N)
        if not len(speech):
            # Nothing but a pause: all of it but the newest step goes.
            return len(quiet_N) - 1 or None
        borders = speech[np.flatnonzero(np.diff(np.append(speech, len(quiet_N))) > 1)]
        for last in borders.tolist():
            after = last + 1 + int(np.argmin(np.append(quiet_N[last + 1 :], False)))
            if time_N2[after - 1, 1] - time_N2[last, 1] >= PAUSE_S:
                return after
        if time_N2[-1, 1] - time_N2[0, 0] > LONGEST_S:
            half = len(quiet_N) // 2
            return half + 1 + int(self._told_NK[half:-1, -1].argmax())
        return None

    def _take(self, count: int) -> list[TimeSpan]:
        told_NK, edges_N2, raw = self._told_NK[:count], self._edges_N2[:count], self._raw[:count]
        self._told_NK, self._edges_N2 = self._told_NK[count:].clone(), self._edges_N2[count:].copy()
        del self._raw[:count]
        if bool((told_NK.argmax(-1) == len(self.symbols)).all()):
            return []
        found = self.decode(told_NK)
        placed = self.placed(torch.stack(raw), found.symbols, "the utterance")
        heard = [
            TimeSpan(
                float(edges_N2[one.first, 0]) * self.unit,
                float(edges_N2[one.last, 1]) * self.unit,
                self.symbols[one.symbol],
                math.exp(float(told_NK[one.first : one.last + 1, one.symbol].mean())),
            )
            for one in placed
        ]
        return heard if self.lexicon is None else self._words(heard, found)

    def _words(self, heard: Sequence[TimeSpan], found: Hypothesis) -> list[TimeSpan]:
        """The symbols of each word made one."""
        assert self.lexicon is not None
        words, at = [], 0
        for word, count in zip(found.words, spelled(found.symbols, found.words, self.lexicon), strict=True):
            if self.lexicon.space is not None and found.symbols[at] == self.lexicon.space:
                at += 1
            words.append(merge_spans(word, heard[at : at + count]))
            at += count
        return words


def spelled(symbols: Sequence[int], words: Sequence[str], lexicon: Lexicon) -> list[int]:
    """How many of the symbols each word takes, spaces left out, where words may be spelled in several ways."""
    ways: list[tuple[int, list[int]]] = [(0, [])]
    for word in words:
        longer = {}
        for at, counts in ways:
            begin = at + (lexicon.space is not None and at > 0)
            for spelling in lexicon.spellings[word]:
                if tuple(symbols[begin : begin + len(spelling)]) == spelling:
                    longer[begin + len(spelling)] = [*counts, len(spelling)]
        ways = list(longer.items())
    (counts,) = [counts for at, counts in ways if at == len(symbols)]
    return counts
