"""Classification: one label per sample, from the pooled vectors of one or several levels.

A sample may have several views, such as windows of a long video: its probabilities are the mean over them.

Shapes: B samples, V views of each, D width of the pooled vectors, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor

from ..core.errors import BadSample, ConfigError
from ..core.levels import HierarchyConfig
from ..core.pyramid import Pyramid
from ..core.tokens import Tokens
from ..data.sample import Sample
from ..data.tokenizer import SINGLE
from .base import Collator, TaskOutput
from .batch import Batch, TowerTokens
from .encoding import EncoderTaskConfig, SingleCollator
from .labels import LabelConfig, LabelTask, class_indices, level_indices, linear_head, values_by_class
from .pooled import training_labels, views_of

if TYPE_CHECKING:
    from ..data.dataset import Dataset
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

    class_weights: dict[str, PositiveFloat] | Literal["balanced"] | None = None
    """Weight of each class in the training loss, by name; ``balanced`` makes all classes of the training set weigh as
    much. See ``balance`` for an alternative."""

    @model_validator(mode="after")
    def _one_balance(self) -> ClassificationConfig:
        if self.class_weights is not None and self.balance:
            raise ValueError("balance and class_weights both make up for classes of unequal size; give one")
        return self

    @property
    def mixes(self) -> bool:
        """Unless labels are counted for ``balance``."""
        return not self.balance

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """Classes in place of the data's: those that are named."""
        return tuple(self.class_weights) if isinstance(self.class_weights, dict) else super().stand_ins

    def collator(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> Collator:
        """Makes batches of samples, which may be mixed."""
        return MixingCollator(self, models, tokenizers, classes)

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor:
        """(B,) int64 class indices. A label is the name of a class, or its index.

        Raises:
            BadSample: a label is not one of the training set's.
        """
        return class_indices(samples, classes)


class MixingCollator(SingleCollator):
    """Collation of samples with a class each, or with several in shares where the samples of a batch are mixed."""

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch of some samples.

        Raises:
            BadSample: a sample cannot be used, or mixed with the others.
        """
        if self.mixing is None:
            return super().__call__(samples)
        names = tuple(sample.name for sample in samples)
        for sample in samples:
            if not isinstance(sample.value, Tensor):
                raise BadSample(sample.name, "is no image in memory, and cannot be mixed with others")
        classes = self.classes or ()
        values, shares_BK = self.mixing(
            [sample.value for sample in samples], names, class_indices(samples, classes), len(classes)
        )
        return Batch({SINGLE: TowerTokens.of(self.tokenizer(values), len(samples))}, shares_BK, names)


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
        self.class_weights = config.class_weights
        if isinstance(config.class_weights, dict):
            self.scores.set_weights(values_by_class(config.class_weights, classes, "task.class_weights"))
        elif config.class_weights is not None:
            self.scores.set_weights([1.0] * len(classes))
        self.head = linear_head(sum(model.levels[index].dim for index in self.levels), len(classes))

    def fit_labels(self, dataset: Dataset) -> None:
        """Takes ``class_weights: balanced`` from the training set.

        Raises:
            ConfigError: the training set is a stream, or has no sample of a class.
        """
        if self.class_weights != "balanced":
            return
        key = "task.class_weights balanced"
        counts_K = torch.zeros(len(self.classes), dtype=torch.float64)
        for sample in training_labels(dataset, key, "give a weight for each class by name"):
            try:
                counts_K[class_indices([sample], self.classes)] += 1
            except BadSample:
                continue
        if absent := [name for name, count in zip(self.classes, counts_K.tolist(), strict=True) if not count]:
            raise ConfigError(f"{key}: no sample of train is of {absent[0]!r}; give weights by name")
        assert self.scores.weight_K is not None
        self.scores.weight_K.copy_(counts_K.sum() / (len(self.classes) * counts_K))

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
