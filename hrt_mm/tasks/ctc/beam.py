"""Prefix beam search: the likeliest symbols, summed over all alignments with the frames.

A lexicon restricts the output to words, and a language model scores word sequences. Frames may be fed in chunks and
are not stored.

Shapes: N frames, K symbols and the blank, which is the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from .language import END, WordModel
from .lexicon import Lexicon, LexiconNode

NEVER = -math.inf


@dataclass(frozen=True)
class Hypothesis:
    """A decoded sequence.

    Args:
        symbols: indices of the symbols.
        log_prob: of the symbols, over all alignments that stayed in the beam.
        words: of the lexicon, where there is one.
    """

    symbols: tuple[int, ...]
    log_prob: float
    words: tuple[str, ...] = ()


@dataclass(eq=False)
class _Beam:
    """A prefix in the beam.

    Args:
        symbols: so far.
        words: finished words.
        end: number of symbols in the finished words.
        node: lexicon node of the open word.
        blank: log-probability of the alignments that end with a blank.
        non_blank: log-probability of those that end with the last symbol.
        word_score: total score of the finished words.
    """

    symbols: tuple[int, ...]
    words: tuple[str, ...] = ()
    end: int = 0
    node: LexiconNode | None = None
    blank: float = NEVER
    non_blank: float = NEVER
    word_score: float = 0.0

    @property
    def log_prob(self) -> float:
        return _sum(self.blank, self.non_blank)


class BeamSearch:
    """An incremental search: feed it frames, then ask for the best hypothesis.

    With a lexicon that has a space symbol, words are separated by it; otherwise words follow each other directly.

    Args:
        width: number of prefixes, and of symbols that are tried at each frame.
        lexicon: the words that may be written.
        word_score: added to the score for each finished word; below 0 for fewer words.
        language: language model over the words of the lexicon.
        language_weight: weight of its log-probabilities in the score.
    """

    def __init__(
        self,
        width: int,
        lexicon: Lexicon | None = None,
        word_score: float = 0.0,
        language: WordModel | None = None,
        language_weight: float = 1.0,
    ) -> None:
        assert language is None or lexicon is not None, "a language model needs a lexicon"
        self.width, self.lexicon, self.word_score = width, lexicon, word_score
        self.language, self.language_weight = language, language_weight
        self._beams = [_Beam((), node=lexicon.root if lexicon else None, blank=0.0)]

    def feed(self, log_probs_NK: Tensor) -> None:
        """Adds frames."""
        blank = log_probs_NK.shape[1] - 1
        likely_NW = log_probs_NK[:, :blank].topk(min(self.width, blank), -1).indices.tolist()
        # As lists: reading single elements of a tensor takes far longer than the search.
        for row, likely in zip(log_probs_NK.tolist(), likely_NW, strict=True):
            self._step(row, likely, blank)

    def best(self) -> Hypothesis:
        """The best hypothesis that ends with a whole word; where none does, the best one without its open word."""
        complete = [hypothesis for beam in self._beams if (hypothesis := self._complete(beam)) is not None]
        if complete:
            return max(complete, key=self._complete_score)
        beam = max(self._beams, key=self._score)
        return Hypothesis(beam.symbols[: beam.end], beam.log_prob, beam.words)

    def _step(self, row: list[float], likely: list[int], blank: int) -> None:
        merged: dict[tuple[tuple[int, ...], tuple[str, ...], int], _Beam] = {}

        def merge(beam: _Beam) -> _Beam:
            return merged.setdefault((beam.symbols, beam.words, beam.end), beam)

        for beam in self._beams:
            total = beam.log_prob
            same = merge(replace(beam, blank=NEVER, non_blank=NEVER))
            same.blank = _sum(same.blank, total + row[blank])
            last = beam.symbols[-1] if beam.symbols else None
            if last is not None:
                same.non_blank = _sum(same.non_blank, beam.non_blank + row[last])
            for symbol in likely:
                # A repeated symbol needs a blank between.
                score = row[symbol] + (beam.blank if symbol == last else total)
                if score > NEVER:
                    for longer in map(merge, self._extensions(beam, symbol)):
                        longer.non_blank = _sum(longer.non_blank, score)
        self._beams = sorted(merged.values(), key=self._score, reverse=True)[: self.width]

    def _score(self, beam: _Beam) -> float:
        return beam.log_prob + beam.word_score

    def _complete_score(self, hypothesis: Hypothesis) -> float:
        # Scored anew, as the last word was still open and the end of the sentence not yet reached.
        words = hypothesis.words
        score = sum(self._word_score(word, words[:index]) for index, word in enumerate(words))
        if self.language is not None:
            score += self.language_weight * self.language.log_prob(END, words)
        return hypothesis.log_prob + score

    def _word_score(self, word: str, before: tuple[str, ...]) -> float:
        """Score of a word after the words before it."""
        if self.language is None:
            return self.word_score
        return self.word_score + self.language_weight * self.language.log_prob(word, before)

    def _extensions(self, beam: _Beam, symbol: int) -> list[_Beam]:
        """The prefixes that a symbol leads to: none where no word continues so, two where it may also begin a word."""
        symbols = (*beam.symbols, symbol)
        if self.lexicon is None or beam.node is None:
            return [_Beam(symbols)]
        root, space = self.lexicon.root, self.lexicon.space
        ways = []
        if symbol != space and symbol in beam.node.children:
            ways.append(_Beam(symbols, beam.words, beam.end, beam.node.children[symbol], word_score=beam.word_score))
        if beam.node.word is not None:
            words, end = (*beam.words, beam.node.word), len(beam.symbols)
            word_score = beam.word_score + self._word_score(beam.node.word, beam.words)
            if symbol == space:
                ways.append(_Beam(symbols, words, end, root, word_score=word_score))
            elif space is None and symbol in root.children:
                ways.append(_Beam(symbols, words, end, root.children[symbol], word_score=word_score))
        return ways

    def _complete(self, beam: _Beam) -> Hypothesis | None:
        if beam.node is None:
            return Hypothesis(beam.symbols, beam.log_prob)
        if not beam.symbols:
            return Hypothesis((), beam.log_prob)
        if beam.node.word is None:
            return None
        return Hypothesis(beam.symbols, beam.log_prob, (*beam.words, beam.node.word))


def beam_search(
    log_probs_NK: Tensor,
    width: int,
    lexicon: Lexicon | None = None,
    word_score: float = 0.0,
    language: WordModel | None = None,
    language_weight: float = 1.0,
) -> Hypothesis:
    """The likeliest symbols of one sample's frames.

    Args:
        log_probs_NK: of its frames.
        width: number of prefixes.
        lexicon: the words that may be written.
        word_score: added to the score for each word.
        language: language model over words.
        language_weight: weight of its log-probabilities.
    """
    search = BeamSearch(width, lexicon, word_score, language, language_weight)
    search.feed(log_probs_NK)
    return search.best()


def _sum(first: float, second: float) -> float:
    """Log of the sum of two probabilities, given their logs."""
    high, low = (first, second) if first > second else (second, first)
    return high if low == NEVER else high + math.log1p(math.exp(low - high))
