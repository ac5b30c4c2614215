"""The configuration of decoders: greedy, or a beam with an optional word list.

Shapes: N steps, K symbols and the blank, which is the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from ...core.component import Component
from .beam import Hypothesis, beam_search
from .greedy import greedy
from .language import WordModel
from .lexicon import Lexicon

Decode = Callable[[Tensor], Hypothesis]
"""(N, K + 1) log-probabilities of one sample's steps to what is said."""


class GreedyConfig(Component):
    """The likeliest symbol of each step."""

    type: Literal["greedy"] = "greedy"

    @property
    def spelled(self) -> bool:
        """Symbols are told from their own steps."""
        return False

    def read_lexicon(self, symbols: Sequence[str], unit: str) -> None:
        """There is none."""

    def build(self, lexicon: Lexicon | None) -> Decode:
        """The decoder."""
        return _greedy


class BeamConfig(Component):
    """The likeliest symbols, summed over the ways to lay them along the steps."""

    type: Literal["beam"]
    width: PositiveInt = 16
    """How many beginnings are kept at each step."""
    word_score: float = 0.0
    """What each word of the lexicon adds to the log-probability that texts are chosen by; below 0 for fewer words."""
    spelled: bool = False
    """Tell symbols from what they are spelled with, at the task's finer level (``task.finer``)."""
    lexicon: Path | None = None
    """A file of words, which alone are then written: a line a word, with its symbols behind it where they are not its
    letters or the word itself, as in CMUdict."""
    language: Path | None = None
    """A text in the words of the lexicon, a sentence a line, such as the transcripts that were trained on: which words
    follow which is counted there, and weighed beside what is heard."""
    language_weight: Annotated[float, Field(gt=0)] = 1.0
    """By how much the log-probabilities of words that follow words are multiplied."""
    language_order: Annotated[int, Field(ge=1, le=5)] = 3
    """Words that are counted together: each with the ones before it."""

    def read_lexicon(self, symbols: Sequence[str], unit: str) -> Lexicon | None:
        """The words of the file, where there is one.

        Raises:
            ConfigError: the lexicon cannot be read, or a word cannot be spelled.
        """
        return Lexicon.read(self.lexicon, symbols, unit) if self.lexicon is not None else None

    def build(self, lexicon: Lexicon | None) -> Decode:
        """The decoder.

        Args:
            lexicon: the words that alone are written.

        Raises:
            ConfigError: the language cannot be read.
        """
        language = WordModel.read(self.language, self.language_order) if self.language is not None else None
        weight = self.language_weight
        return lambda log_probs_NK: beam_search(log_probs_NK, self.width, lexicon, self.word_score, language, weight)

    @model_validator(mode="after")
    def _has_words(self) -> BeamConfig:
        if self.spelled and self.lexicon is not None:
            raise ValueError("spelled has the words of task.finer, and lexicon others; drop one of them")
        known = self.spelled or self.lexicon is not None
        if self.word_score and not known:
            raise ValueError("word_score is for words of a lexicon, and there is none; set lexicon, or drop it")
        if self.language is not None and not known:
            raise ValueError("language is of words of a lexicon, and there is none; set lexicon, or drop it")
        default = BeamConfig.model_fields
        for key in ("language_weight", "language_order"):
            if self.language is None and getattr(self, key) != default[key].default:
                raise ValueError(f"{key} has no effect without language; set it, or drop the key")
        return self


Decoder = Annotated[GreedyConfig | BeamConfig, Field(discriminator="type")]


def _greedy(log_probs_NK: Tensor) -> Hypothesis:
    places = greedy(log_probs_NK)
    return Hypothesis(tuple(places), float(log_probs_NK.max(-1).values.sum()))
