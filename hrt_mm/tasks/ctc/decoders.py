"""The configuration of decoders: greedy, or a beam with an optional word list.

Shapes: N frames, K symbols and the blank, which is the last.
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
"""(N, K + 1) log-probabilities of one sample to its best hypothesis."""


class GreedyConfig(Component):
    """The likeliest symbol of each frame."""

    type: Literal["greedy"] = "greedy"

    @property
    def spelled(self) -> bool:
        """Greedy decoding reads the task's own head."""
        return False

    def read_lexicon(self, symbols: Sequence[str], unit: str) -> None:
        """None."""

    def build(self, lexicon: Lexicon | None) -> Decode:
        """The decoder."""
        return _greedy


class BeamConfig(Component):
    """Prefix beam search: the likeliest symbols, summed over their alignments."""

    type: Literal["beam"]
    width: PositiveInt = 16
    """Number of prefixes kept at each frame."""
    word_score: float = 0.0
    """Added to the score of a hypothesis for each word of the lexicon; below 0 for fewer words."""
    spelled: bool = False
    """Decode the spellings of symbols at the task's finer level (``task.finer``)."""
    lexicon: Path | None = None
    """A file of the words that may be decoded: one per line, followed by its symbols where they are not its letters or
    the word itself, as in CMUdict."""
    language: Path | None = None
    """A text in the words of the lexicon, one sentence per line, such as the training transcripts, from which an n-gram
    language model is counted."""
    language_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the language model's log-probabilities."""
    language_order: Annotated[int, Field(ge=1, le=5)] = 3
    """Order of the n-grams."""

    def read_lexicon(self, symbols: Sequence[str], unit: str) -> Lexicon | None:
        """The words of the file, where there is one.

        Raises:
            ConfigError: the lexicon cannot be read, or a word cannot be spelled.
        """
        return Lexicon.read(self.lexicon, symbols, unit) if self.lexicon is not None else None

    def build(self, lexicon: Lexicon | None) -> Decode:
        """The decoder.

        Args:
            lexicon: the words that may be written.

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
        has_words = self.spelled or self.lexicon is not None
        if self.word_score and not has_words:
            raise ValueError("word_score is for words of a lexicon, and there is none; set lexicon, or drop it")
        if self.language is not None and not has_words:
            raise ValueError("language is of words of a lexicon, and there is none; set lexicon, or drop it")
        default = BeamConfig.model_fields
        for key in ("language_weight", "language_order"):
            if self.language is None and getattr(self, key) != default[key].default:
                raise ValueError(f"{key} has no effect without language; set it, or drop the key")
        return self


Decoder = Annotated[GreedyConfig | BeamConfig, Field(discriminator="type")]


def _greedy(log_probs_NK: Tensor) -> Hypothesis:
    return Hypothesis(tuple(greedy(log_probs_NK)), float(log_probs_NK.max(-1).values.sum()))
