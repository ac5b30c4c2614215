"""Classification: one label a sample, from the pooled vectors of one level or of several.

Shapes: B samples, K classes, D width of the pooled vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadSample, ConfigError
from ..levels import HierarchyConfig
from ..sample import Sample
from ..tokens import Tokens
from .base import Batch, TaskConfig, TaskOutput
from .encoding import EncoderTask

if TYPE_CHECKING:
    from ..modality import Tokenizer


class ClassificationConfig(TaskConfig):
    """One label a sample."""

    type: Literal["classification"]
    level: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Level whose pooled vector is classified, or several, laid end to end; the coarsest when absent."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the target that is spread over all classes in training."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability to drop a value of the pooled vector in training."""

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Classification:
        """The task's module.

        Raises:
            ConfigError: the data has no classes, there is no such level, or a part of the model is never read.
        """
        if classes is None:
            raise ConfigError("task classification needs labels, and the training data has no classes")
        if len(classes) < 2:
            raise ConfigError(f"task classification needs 2 classes or more, the training data has {list(classes)}")
        return Classification(self, model, tokenizer, classes)

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor:
        """(B,) int64 places of the labels among the classes. A label is a class's name, or its place.

        Raises:
            BadSample: a label is not one of the training set's.
        """
        names = classes or ()
        places = {name: place for place, name in enumerate(names)}
        return torch.tensor([_place(sample, places) for sample in samples])

    def _levels(self, model: HierarchyConfig) -> list[int]:
        chosen: tuple[str | None, ...] = self.level if isinstance(self.level, tuple) else (self.level,)
        places = [model.index(name) for name in chosen]
        if len(set(places)) != len(places):
            raise ConfigError(f"task.level names a level twice: {', '.join(map(str, chosen))}")
        return places


class Classification(EncoderTask):
    """Encoder, linear head and cross-entropy.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes and the embedding.
        classes: names of the labels.
    """

    monitor = "accuracy"
    monitor_mode = "max"

    def __init__(
        self, config: ClassificationConfig, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...]
    ) -> None:
        self.levels = config._levels(model)
        super().__init__(model, tokenizer, self.levels)
        self.label_smoothing = config.label_smoothing
        self.classes = classes
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(sum(model.levels[place].dim for place in self.levels), len(classes))
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss, accuracy (top-5 as well above 10 classes) and the predicted classes (B,)."""
        assert batch.target is not None
        pyramid = self.encoder(batch.tokens)
        pooled_BD = torch.cat([pyramid.pooled(level) for level in self.levels], -1)
        logits_BK = self.head(self.dropout(pooled_BD)).float()
        smoothing = self.label_smoothing if self.training else 0.0
        parts = {"cross_entropy": F.cross_entropy(logits_BK, batch.target, label_smoothing=smoothing)} | pyramid.losses
        loss = torch.stack(list(parts.values())).sum()
        return TaskOutput(
            loss,
            {name: part.detach() for name, part in parts.items()},
            _accuracy(logits_BK.detach(), batch.target),
            logits_BK.detach().argmax(-1),
        )


def _accuracy(logits_BK: Tensor, target_B: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    count = torch.full((), len(target_B), device=target_B.device)
    stats = {"accuracy": ((logits_BK.argmax(-1) == target_B).sum(), count)}
    if logits_BK.shape[1] > 10:
        best_B5 = logits_BK.topk(5).indices
        stats["top5"] = ((best_B5 == target_B[:, None]).any(-1).sum(), count)
    return stats


def _place(sample: Sample, places: dict[Any, int]) -> int:
    label = sample.label
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(places):
        return label
    if not isinstance(label, str) or label not in places:
        known = ", ".join(list(places)[:10]) + (", ..." if len(places) > 10 else "")
        raise BadSample(sample.name, f"label {label!r} is not one of the training set's: {known}")
    return places[label]
