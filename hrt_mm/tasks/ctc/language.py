"""An n-gram language model over words, for beam search."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...core.errors import ConfigError, UserError
from ...data.plain_text import NotText, read_lines

START, END = "<s>", "</s>"
"""Padding before the first word, and the end of a sentence."""


class WordModel:
    """An n-gram model with Witten-Bell smoothing (IEEE Trans. IT 37(4), 1991).

    Counts of a context are interpolated with those of the context without its first word, down to a uniform
    distribution over all words. The weight of the shorter context grows with the number of different words that follow.

    Args:
        sentences: lists of words.
        order: of the n-grams: the predicted word and those before it.

    Raises:
        UserError: there are no sentences.
    """

    def __init__(self, sentences: Iterable[Sequence[str]], order: int = 3) -> None:
        self.order = order
        self._after: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        words: set[str] = set()
        for sentence in sentences:
            row = [*[START] * (order - 1), *sentence, END]
            words.update(sentence)
            for index in range(order - 1, len(row)):
                for size in range(order):
                    self._after[tuple(row[index - size : index])][row[index]] += 1
        if not self._after:
            raise UserError("a language model needs at least one sentence")
        # All words, the end of a sentence and an unknown word.
        self._uniform = 1 / (len(words) + 2)
        self._cache: dict[tuple[tuple[str, ...], str], float] = {}

    @classmethod
    def read(cls, path: Path, order: int) -> WordModel:
        """The model of a text file: one sentence per line, words separated by spaces.

        Raises:
            ConfigError: the file cannot be read or has no words.
        """
        try:
            sentences = [line.split() for line in read_lines(path)]
        except (OSError, NotText) as error:
            raise ConfigError(f"language {path} cannot be read: {error}") from error
        if not any(sentences):
            raise ConfigError(f"language {path} has no words; it needs one sentence per line")
        return cls((sentence for sentence in sentences if sentence), order)

    def log_prob(self, word: str, before: Sequence[str]) -> float:
        """Log-probability of a word, or of :data:`END`, after all words before it in its sentence."""
        context = tuple([*[START] * (self.order - 1), *before][len(before) :])
        key = context, word
        if key not in self._cache:
            self._cache[key] = math.log(self._probability(word, context))
        return self._cache[key]

    def _probability(self, word: str, context: tuple[str, ...]) -> float:
        shorter = self._probability(word, context[1:]) if context else self._uniform
        after = self._after.get(context)
        if after is None:
            return shorter
        kinds = len(after)
        return (after[word] + kinds * shorter) / (after.total() + kinds)
