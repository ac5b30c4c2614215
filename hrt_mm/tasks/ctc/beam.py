"""Prefix beam search: the likeliest symbols, summed over all ways to lay them along the steps.

A lexicon lets only words be written, and a language model weighs which words follow which. Steps may come in chunks;
nothing of them is kept.

Shapes: N steps, K symbols and the blank, which is the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from .language import END, WordModel
from .lexicon import Lexicon, Node

NEVER = -math.inf


@dataclass(frozen=True)
class Hypothesis:
    """What may have been said.

    Args:
        symbols: their places.
        log_prob: of these symbols, over all ways to lay them along the steps that were kept in the beam.
        words: those of the lexicon, where there is one.
    """

    symbols: tuple[int, ...]
    log_prob: float
    words: tuple[str, ...] = ()


@dataclass(eq=False)
class _Beam:
    """A beginning of what is said.

    Args:
        symbols: so far.
        words: that are finished.
        end: symbols of these.
        node: where the open word stands.
        blank: log-probability of the ways that end with a blank.
        real: of those that end with the last symbol.
        said: what finished words add to the score.
    """

    symbols: tuple[int, ...]
    words: tuple[str, ...] = ()
    end: int = 0
    node: Node | None = None
    blank: float = NEVER
    real: float = NEVER
    said: float = 0.0

    @property
    def log_prob(self) -> float:
        return _sum(self.blank, self.real)


class BeamSearch:
    """The state of a search. Feed it steps, then ask for the best.

    With a lexicon whose symbols have a space, words are parted by it; without, a word may follow another at once.

    Args:
        width: how many beginnings are kept, and how many symbols a step may add.
        lexicon: the words that may be written.
        word_score: what each finished word adds to the score that hypotheses are chosen by; below 0 for fewer words.
        language: how likely words are after those before them; for words of a lexicon.
        language_weight: by how much their log-probabilities are multiplied in the score.
    """

    def __init__(
        self,
        width: int,
        lexicon: Lexicon | None = None,
        word_score: float = 0.0,
        language: WordModel | None = None,
        language_weight: float = 1.0,
    ) -> None:
        assert language is None or lexicon is not None, "words are those of a lexicon"
        self.width, self.lexicon, self.word_score = width, lexicon, word_score
        self.language, self.language_weight = language, language_weight
        self._beams = [_Beam((), node=lexicon.root if lexicon else None, blank=0.0)]

    def feed(self, log_probs_NK: Tensor) -> None:
        """Takes in the next steps."""
        blank = log_probs_NK.shape[1] - 1
        likely_NW = log_probs_NK[:, :blank].topk(min(self.width, blank), -1).indices.tolist()
        for row, likely in zip(log_probs_NK.tolist(), likely_NW, strict=True):
            self._step(row, likely, blank)

    def best(self) -> Hypothesis:
        """The likeliest that ends with a whole word; where none does, the likeliest without its open word."""
        whole = [found for beam in self._beams if (found := self._ended(beam)) is not None]
        if whole:
            return max(whole, key=self._whole_score)
        beam = max(self._beams, key=self._score)
        return Hypothesis(beam.symbols[: beam.end], beam.log_prob, beam.words)

    def _step(self, row: list[float], likely: list[int], blank: int) -> None:
        found: dict[tuple[tuple[int, ...], tuple[str, ...], int], _Beam] = {}

        def kept(beam: _Beam) -> _Beam:
            return found.setdefault((beam.symbols, beam.words, beam.end), beam)

        for beam in self._beams:
            total = beam.log_prob
            same = kept(replace(beam, blank=NEVER, real=NEVER))
            same.blank = _sum(same.blank, total + row[blank])
            last = beam.symbols[-1] if beam.symbols else None
            if last is not None:
                same.real = _sum(same.real, beam.real + row[last])
            for symbol in likely:
                # A symbol twice in a row needs a blank between.
                score = row[symbol] + (beam.blank if symbol == last else total)
                if score > NEVER:
                    for longer in map(kept, self._longer(beam, symbol)):
                        longer.real = _sum(longer.real, score)
        self._beams = sorted(found.values(), key=self._score, reverse=True)[: self.width]

    def _score(self, beam: _Beam) -> float:
        return beam.log_prob + beam.said

    def _whole_score(self, found: Hypothesis) -> float:
        words = found.words
        said = sum(self._word(word, words[:place]) for place, word in enumerate(words))
        if self.language is not None:
            said += self.language_weight * self.language.log_prob(END, words)
        return found.log_prob + said

    def _word(self, word: str, before: tuple[str, ...]) -> float:
        """What a word adds to the score."""
        if self.language is None:
            return self.word_score
        return self.word_score + self.language_weight * self.language.log_prob(word, before)

    def _longer(self, beam: _Beam, symbol: int) -> list[_Beam]:
        """Where a symbol leads: nowhere where no word goes on so, twice where it may also begin one."""
        symbols = (*beam.symbols, symbol)
        if self.lexicon is None or beam.node is None:
            return [_Beam(symbols)]
        root, space = self.lexicon.root, self.lexicon.space
        ways = []
        if symbol != space and symbol in beam.node.after:
            ways.append(_Beam(symbols, beam.words, beam.end, beam.node.after[symbol], said=beam.said))
        if beam.node.word is not None:
            words, end = (*beam.words, beam.node.word), len(beam.symbols)
            said = beam.said + self._word(beam.node.word, beam.words)
            if symbol == space:
                ways.append(_Beam(symbols, words, end, root, said=said))
            elif space is None and symbol in root.after:
                ways.append(_Beam(symbols, words, end, root.after[symbol], said=said))
        return ways

    def _ended(self, beam: _Beam) -> Hypothesis | None:
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
    """The likeliest symbols of one sample's steps.

    Args:
        log_probs_NK: of its steps.
        width: beginnings that are kept.
        lexicon: the words that may be written.
        word_score: what each word adds to the score of a hypothesis.
        language: how likely words are after those before them.
        language_weight: by how much their log-probabilities are multiplied.
    """
    search = BeamSearch(width, lexicon, word_score, language, language_weight)
    search.feed(log_probs_NK)
    return search.best()


def _sum(one: float, other: float) -> float:
    """The logarithm of the sum of two probabilities."""
    high, low = (one, other) if one > other else (other, one)
    return high if low == NEVER else high + math.log1p(math.exp(low - high))
