"""Decoding of whole utterances from frames that come in chunks: each is decoded once a pause ends it.

Shapes: N frames, K symbols and the blank, which is the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from hrt_mm.data.time_span import TimeSpan, merge_spans
from hrt_mm.tasks.ctc import AlignedSymbol, Hypothesis
from hrt_mm.tasks.ctc.alignment import forced_alignment
from hrt_mm.tasks.ctc.lexicon import Lexicon

PAUSE_S, LONGEST_S = 0.3, 20.0
"""Seconds of blanks that end an utterance; longer utterances than the second are cut where a blank is likeliest."""


class UtteranceStream:
    """Symbols with times, or the words of a lexicon, one utterance at a time.

    Args:
        decode: decodes the log-probabilities of an utterance.
        symbols: in the order of the outputs; the blank is the last output.
        unit: seconds per level-0 token (1 where time has no unit: pauses are then counted in tokens).
        lexicon: the words that ``decode`` writes, where it does.
        merge_silence: maps incoming log-probabilities to those that are decoded; none when absent.
        align: aligns symbols with incoming log-probabilities.
    """

    def __init__(
        self,
        decode: Callable[[Tensor], Hypothesis],
        symbols: Sequence[str],
        unit: float,
        lexicon: Lexicon | None = None,
        merge_silence: Callable[[Tensor], Tensor] | None = None,
        align: Callable[[Tensor, Sequence[int], str], list[AlignedSymbol]] = forced_alignment,
    ) -> None:
        self.decode, self.symbols, self.unit, self.lexicon = decode, symbols, unit, lexicon
        self.merge_silence = merge_silence or (lambda log_probs_NK: log_probs_NK)
        self.align = align
        self._raw: list[Tensor] = []
        self._log_probs_NK = torch.zeros(0, len(symbols) + 1)
        self._edges_N2 = np.zeros((0, 2), dtype=np.int64)

    def feed(self, raw_NK: Tensor, first_N: np.ndarray, last_N: np.ndarray) -> list[TimeSpan]:
        """Adds frames with the first and end level-0 token of each; returns the spans of utterances that have ended."""
        self._raw += raw_NK.unbind()
        self._log_probs_NK = torch.cat([self._log_probs_NK, self.merge_silence(raw_NK)])
        self._edges_N2 = np.concatenate([self._edges_N2, np.stack([first_N, last_N], 1)])
        spans: list[TimeSpan] = []
        while (count := self._utterance_length()) is not None:
            spans += self._decode(count)
        return spans

    def flush(self) -> list[TimeSpan]:
        """The spans of the last utterance."""
        return self._decode(len(self._log_probs_NK))

    def _utterance_length(self) -> int | None:
        """Steps of the utterance that a pause has ended, or that is too long; ``None`` where there is none."""
        if not len(self._log_probs_NK):
            return None
        quiet_N = (self._log_probs_NK.argmax(-1) == len(self.symbols)).numpy()
        time_N2 = self._edges_N2 * self.unit
        speech = np.flatnonzero(~quiet_N)
        if not len(speech):
            # Only a pause: drop all of it but the newest frame.
            return len(quiet_N) - 1 or None
        speech_ends = speech[np.flatnonzero(np.diff(np.append(speech, len(quiet_N))) > 1)]
        for last in speech_ends.tolist():
            after = last + 1 + int(np.argmin(np.append(quiet_N[last + 1 :], False)))
            if time_N2[after - 1, 1] - time_N2[last, 1] >= PAUSE_S:
                return after
        if time_N2[-1, 1] - time_N2[0, 0] > LONGEST_S:
            half = len(quiet_N) // 2
            return half + 1 + int(self._log_probs_NK[half:-1, -1].argmax())
        return None

    def _decode(self, count: int) -> list[TimeSpan]:
        log_probs_NK, edges_N2, raw = self._log_probs_NK[:count], self._edges_N2[:count], self._raw[:count]
        self._log_probs_NK, self._edges_N2 = self._log_probs_NK[count:].clone(), self._edges_N2[count:].copy()
        del self._raw[:count]
        if bool((log_probs_NK.argmax(-1) == len(self.symbols)).all()):
            return []
        hypothesis = self.decode(log_probs_NK)
        aligned = self.align(torch.stack(raw), hypothesis.symbols, "the utterance")
        spans = [
            TimeSpan(
                float(edges_N2[part.first, 0]) * self.unit,
                float(edges_N2[part.last, 1]) * self.unit,
                self.symbols[part.symbol],
                math.exp(float(log_probs_NK[part.first : part.last + 1, part.symbol].mean())),
            )
            for part in aligned
        ]
        return spans if self.lexicon is None else self._words(spans, hypothesis)

    def _words(self, spans: Sequence[TimeSpan], hypothesis: Hypothesis) -> list[TimeSpan]:
        """The spans of words, merged from those of their symbols."""
        assert self.lexicon is not None
        words, position = [], 0
        lengths = spelling_lengths(hypothesis.symbols, hypothesis.words, self.lexicon)
        for word, count in zip(hypothesis.words, lengths, strict=True):
            if self.lexicon.space is not None and hypothesis.symbols[position] == self.lexicon.space:
                position += 1
            words.append(merge_spans(word, spans[position : position + count]))
            position += count
        return words


def spelling_lengths(symbols: Sequence[int], words: Sequence[str], lexicon: Lexicon) -> list[int]:
    """Number of symbols of each word without spaces, where words may have several spellings."""
    # Lengths of the words so far, by the position they end at.
    lengths_by_end: dict[int, list[int]] = {0: []}
    for word in words:
        longer = {}
        for end, lengths in lengths_by_end.items():
            begin = end + (lexicon.space is not None and end > 0)
            for spelling in lexicon.spellings[word]:
                if tuple(symbols[begin : begin + len(spelling)]) == spelling:
                    longer[begin + len(spelling)] = [*lengths, len(spelling)]
        lengths_by_end = longer
    return lengths_by_end[len(symbols)]
