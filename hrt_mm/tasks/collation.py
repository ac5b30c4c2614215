"""Collation: samples to a batch, in the training process or in a loader's worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..core.tokens import Tokens
from ..data.sample import Sample
from ..data.tokenizer import Tokenizer, only_tokenizer
from .batch import Batch

if TYPE_CHECKING:
    from ..core.levels import HierarchyConfig
    from .base import TaskConfig


class Collator(ABC):
    """Tokenizes samples and makes the targets of a task. It is pickled for workers that are not forked.

    Args:
        tokenizers: by tower.
        classes: names of the training set's labels, where they are classes.
    """

    def __init__(self, tokenizers: Mapping[str, Tokenizer], classes: tuple[str, ...] | None) -> None:
        self.tokenizers, self.classes = dict(tokenizers), classes

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
        config: TaskConfig,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> None:
        super().__init__(tokenizers, classes)
        self.config, self.tokenizer = config, only_tokenizer(tokenizers)
        self.model = next(iter(models.values()), None)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of some samples."""
        tokens = self.tokenizer(self.config.values(samples))
        return Batch.of(tokens, self.targets(samples, tokens), tuple(sample.name for sample in samples))

    def targets(self, samples: Sequence[Sample], tokens: Tokens) -> Tensor | None:
        """What the loss compares with; ``None`` where the tokens are their own target."""
        return self.config.targets(samples, tokens, self.classes)
