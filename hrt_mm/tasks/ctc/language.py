"""Which words follow which: n-grams of a text, which a beam weighs beside what it hears."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...core.errors import ConfigError, UserError
from ...data.plain_text import NotText, read_lines

START, END = "<s>", "</s>"
"""Stand before the first word and behind the last one."""


class WordModel:
    """Probabilities of words after the words before them, with Witten and Bell's estimate (IEEE Trans. IT 37(4), 1991).

    What follows a context is counted; a share of the probability that grows with the number of different words there
    goes to what follows the context without its first word, and at last to all words alike, known or not.

    Args:
        sentences: their words.
        order: words of an n-gram: the one that is told and those before it.

    Raises:
        UserError: there is no sentence.
    """

    def __init__(self, sentences: Iterable[Sequence[str]], order: int = 3) -> None:
        self.order = order
        self._after: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        words: set[str] = set()
        for sentence in sentences:
            row = [*[START] * (order - 1), *sentence, END]
            words.update(sentence)
            for place in range(order - 1, len(row)):
                for size in range(order):
                    self._after[tuple(row[place - size : place])][row[place]] += 1
        if not self._after:
            raise UserError("a language model needs a sentence at least")
        # The end, and a word that was never seen.
        self._uniform = 1 / (len(words) + 2)
        self._known: dict[tuple[tuple[str, ...], str], float] = {}

    @classmethod
    def read(cls, path: Path, order: int) -> WordModel:
        """The model of a text file, a sentence a line, words parted by spaces.

        Raises:
            ConfigError: the file cannot be read or has no words.
        """
        try:
            sentences = [line.split() for line in read_lines(path)]
        except (OSError, NotText) as error:
            raise ConfigError(f"language {path} cannot be read: {error}") from error
        if not any(sentences):
            raise ConfigError(f"language {path} has no words; it needs a sentence a line")
        return cls((sentence for sentence in sentences if sentence), order)

    def log_prob(self, word: str, before: Sequence[str]) -> float:
        """Of a word, or of :data:`END`, after all words before it in its sentence."""
        context = tuple([*[START] * (self.order - 1), *before][len(before) :])
        key = context, word
        if key not in self._known:
            self._known[key] = math.log(self._probability(word, context))
        return self._known[key]

    def _probability(self, word: str, context: tuple[str, ...]) -> float:
        shorter = self._probability(word, context[1:]) if context else self._uniform
        after = self._after.get(context)
        if after is None:
            return shorter
        kinds = len(after)
        return (after[word] + kinds * shorter) / (after.total() + kinds)
