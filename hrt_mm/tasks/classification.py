"""Classification: one label a sample, from the pooled vectors of one level or of several.

Shapes: B samples, D width of the pooled vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..levels import HierarchyConfig
from ..sample import Sample
from ..tokens import Tokens
from .base import Batch, TaskOutput
from .labels import LabelConfig, LabelTask, level_places, linear_head, places_of

if TYPE_CHECKING:
    from ..modality import Tokenizer


class ClassificationConfig(LabelConfig):
    """One label a sample."""

    type: Literal["classification"]
    level: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Level whose pooled vector is classified, or several, laid end to end; the coarsest when absent."""

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Classification:
        """The task's module.

        Raises:
            ConfigError: the data has no classes, there is no such level, or a part of the model is never read.
        """
        return Classification(self, model, tokenizer, self.known(classes))

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor:
        """(B,) int64 places of the labels among the classes. A label is a class's name, or its place.

        Raises:
            BadSample: a label is not one of the training set's.
        """
        return places_of(samples, classes)


class Classification(LabelTask):
    """Encoder, linear head and cross-entropy.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes and the embedding.
        classes: names of the labels.
    """

    def __init__(
        self, config: ClassificationConfig, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...]
    ) -> None:
        self.levels = level_places(model, config.level)
        super().__init__(config, model, tokenizer, self.levels, classes)
        self.head = linear_head(sum(model.levels[place].dim for place in self.levels), len(classes))

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss, accuracy (top-5 as well above 10 classes), macro-F1 and the predicted classes (B,)."""
        assert batch.target is not None
        pyramid = self.encoder(batch.tokens)
        pooled_BD = torch.cat([pyramid.pooled(level) for level in self.levels], -1)
        return self.scored(self.head(self.dropout(pooled_BD)), batch.target, pyramid.losses)
