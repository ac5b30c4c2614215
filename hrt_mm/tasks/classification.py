"""Classification: one label per sample, from the pooled vectors of one or several levels.

A sample may have several views, such as windows of a long video: its probabilities are the mean over them.

Shapes: B samples, V views of each, D width of the pooled vectors, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..core.levels import HierarchyConfig
from ..core.pyramid import Pyramid
from ..core.tokens import Tokens
from ..data.sample import Sample
from .base import TaskOutput
from .batch import Batch
from .encoding import EncoderTaskConfig
from .labels import LabelConfig, LabelTask, class_indices, level_indices, linear_head
from .pooled import views_of

if TYPE_CHECKING:
    from ..data.tokenizer import Tokenizer


class ClassificationConfig(LabelConfig, EncoderTaskConfig):
    """One label per sample."""

    type: Literal["classification"]
    level: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Level whose pooled vector is classified, or several, concatenated; the coarsest when absent."""

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Classification:
        """The task's module.

        Raises:
            ConfigError: the data has no classes, there is no such level, or a part of the model is never read.
        """
        return Classification(self, model, tokenizer, self.checked_classes(classes))

    def values(self, samples: Sequence[Sample]) -> list[Any]:
        """The samples' values, or all views of each where they are tuples of views.

        Raises:
            BadSample: one has more or fewer views than the first.
        """
        return views_of(samples)

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor:
        """(B,) int64 class indices. A label is the name of a class, or its index.

        Raises:
            BadSample: a label is not one of the training set's.
        """
        return class_indices(samples, classes)


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
        self.levels = level_indices(model, config.level)
        super().__init__(config, model, tokenizer, self.levels, classes)
        self.head = linear_head(sum(model.levels[index].dim for index in self.levels), len(classes))

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss, accuracy (top-5 as well above 10 classes), macro-F1 and the predicted classes (B,)."""
        assert batch.target is not None
        pyramid = self.encoder(batch.tokens)
        return self.label_output(self._logits(pyramid, len(batch.target)), batch.target, pyramid.losses)

    def logits(self, batch: Batch) -> Tensor:
        """(B, K) of the samples of a batch, whose targets need not be there."""
        return self._logits(self.encoder(batch.tokens), len(batch))

    def view_logits(self, pyramid: Pyramid) -> Tensor:
        """(B * V, K) logits of each view."""
        pooled = [pyramid.pooled(level) for level in self.levels]
        logits: Tensor = self.head(self.dropout(pooled[0] if len(pooled) == 1 else torch.cat(pooled, -1)))
        return logits

    def _logits(self, pyramid: Pyramid, samples: int) -> Tensor:
        return over_views(self.view_logits(pyramid), samples)


def over_views(logits_VK: Tensor, samples: int) -> Tensor:
    """(B, K) logs of the probabilities averaged over the views of each sample; with one view the logits.

    Args:
        logits_VK: (B * V, K), the views of a sample side by side.
        samples: how many there are.
    """
    views = len(logits_VK) // max(1, samples)
    if views <= 1:
        return logits_VK
    return logits_VK.float().log_softmax(-1).unflatten(0, (samples, views)).logsumexp(1) - math.log(views)
