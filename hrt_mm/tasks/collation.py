"""Collation: samples to a batch, in the training process or in a loader's worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..core.tokens import Tokens
from ..data.sample import Sample
from ..data.tokenizer import SINGLE, Tokenizer, only_tokenizer
from .batch import Batch, TowerTokens

if TYPE_CHECKING:
    from ..core.levels import HierarchyConfig
    from .base import EncoderTaskConfig


class Collator(ABC):
    """Tokenizes samples and makes the targets of a task. It is pickled for workers that are not forked.

    Args:
        tokenizers: by tower.
        classes: names of the training set's labels, where they are classes.
    """

    def __init__(self, tokenizers: Mapping[str, Tokenizer], classes: tuple[str, ...] | None) -> None:
        self.tokenizers, self.classes = dict(tokenizers), classes

    @abstractmethod
    def values(self, sample: Sample, tower: str) -> list[Any]:
        """The raw values of a sample that a tower reads; none if the sample lacks this modality.

        Raises:
            BadSample: the value is not what the task needs.
        """

    @abstractmethod
    def towers(self, samples: Sequence[Sample]) -> dict[str, TowerTokens]:
        """The tokens of some samples for each tower, without targets. Towers that no sample has are left out.

        Raises:
            BadSample: a sample cannot be tokenized.
        """

    @abstractmethod
    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of some samples.

        Raises:
            BadSample: a sample cannot be used.
        """


class SingleCollator(Collator):
    """Collation for a task over one tower.

    Args:
        config: of the task.
        models: the hierarchy by tower.
        tokenizers: by tower.
        classes: names of the training set's labels, where they are classes.
    """

    def __init__(
        self,
        config: EncoderTaskConfig,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> None:
        super().__init__(tokenizers, classes)
        self.config, self.tokenizer = config, only_tokenizer(tokenizers)
        self.model = next(iter(models.values()), None)

    def values(self, sample: Sample, tower: str) -> list[Any]:
        """The values of a sample: one, or several that are one sample together."""
        return self.config.values([sample])

    def towers(self, samples: Sequence[Sample]) -> dict[str, TowerTokens]:
        """The tokens of the only tower: the same number of sequences of each sample."""
        tokens = self.tokenizer(self.config.values(samples))
        return {SINGLE: TowerTokens.of(tokens, len(samples))}

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of some samples."""
        towers = self.towers(samples)
        return Batch(towers, self.targets(samples, towers[SINGLE].tokens), tuple(sample.name for sample in samples))

    def targets(self, samples: Sequence[Sample], tokens: Tokens) -> Tensor | None:
        """What the loss compares with; ``None`` where the tokens are their own target."""
        return self.config.targets(samples, tokens, self.classes)
