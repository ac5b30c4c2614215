"""Multi-label classification: any number of classes per sample, from the pooled vectors of one or several levels.

Each class has a score of its own, and is predicted where that reaches the threshold of the class. A sample may have
several views; its probabilities are the means over them.

Shapes: B samples, V views of each, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import BadSample, ConfigError
from ..core.levels import HierarchyConfig
from ..core.tokens import Tokens
from ..data.sample import Sample
from ..metrics.multilabel import average_precisions, best_thresholds, f1_scores
from .base import TaskOutput
from .batch import Batch
from .labels import checked_classes, class_index_of, values_by_class
from .pooled import PooledTask, PooledTaskConfig, training_labels

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..data.tokenizer import Tokenizer

Threshold = Annotated[float, Field(gt=0, lt=1)]


class MultilabelConfig(PooledTaskConfig):
    """Any number of classes per sample."""

    type: Literal["multilabel"]
    thresholds: Threshold | tuple[Threshold, ...] | dict[str, Threshold] | Literal["val"] = 0.5
    """Probability from which a class is predicted: one for all, or one for each class, in the order of the classes or
    by name. ``val`` chooses those of the best F1 of each class at every evaluation of ``val``, whose own F1 is then too
    good; that of ``test`` is not."""
    pos_weight: PositiveFloat | dict[str, PositiveFloat] | Literal["balanced"] | None = None
    """Weight of samples that have a class against those that do not: one for all classes, or one for each by name;
    ``balanced`` makes both weigh as much over the training set."""
    monitor: Literal["mAP", "micro_f1", "macro_f1", "loss"] = "mAP"
    """Selects the best checkpoint: mean average precision needs no thresholds."""

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """Classes in place of the data's: those that are named, or as many as there are thresholds."""
        named = [*(self.thresholds if isinstance(self.thresholds, dict) else ())]
        named += self.pos_weight if isinstance(self.pos_weight, dict) else ()
        if named:
            return tuple(dict.fromkeys(named))
        count = len(self.thresholds) if isinstance(self.thresholds, tuple) else 2
        return tuple(f"class {index}" for index in range(count))

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Multilabel:
        """The task's module.

        Raises:
            ConfigError: the data has no classes, thresholds or weights are not one for each of them, there is no such
                level, or a part of the model is never read.
        """
        return Multilabel(self, model, tokenizer, checked_classes(self.type, classes, 1))

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor:
        """(B, K) float32: 1 where a sample has a class.

        Raises:
            BadSample: a label is not a list of classes of the training set.
        """
        class_index = {name: index for index, name in enumerate(classes or ())}
        target_BK = torch.zeros(len(samples), len(class_index))
        for row_K, sample in zip(target_BK, samples, strict=True):
            row_K[label_indices(sample, class_index)] = 1
        return target_BK


def label_indices(sample: Sample, class_index: dict[str, int]) -> list[int]:
    """Indices of the classes of a sample; a label that is no list counts as a list of one.

    Raises:
        BadSample: it has no label, or one that is not a class of the training set.
    """
    label: Any = sample.label
    if label is None:
        raise BadSample(sample.name, "has no label; give an empty list if it is of no class")
    parts = label if isinstance(label, list | tuple) else [label]
    return [class_index_of(part, class_index, sample.name) for part in parts]


class Multilabel(PooledTask):
    """Encoder, linear head, and binary cross-entropy of each class.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes and the embedding.
        classes: names of the labels.
    """

    threshold_K: Tensor
    pos_weight_K: Tensor

    def __init__(
        self, config: MultilabelConfig, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...]
    ) -> None:
        super().__init__(config, model, tokenizer, len(classes))
        self.config, self.classes = config, classes
        self.monitor, self.monitor_mode = config.monitor, "min" if config.monitor == "loss" else "max"
        self.register_buffer("threshold_K", torch.empty(len(classes)))
        self.register_buffer("pos_weight_K", torch.empty(len(classes)))
        self.calibrated = ("threshold_K",) if config.thresholds == "val" else ()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets thresholds and weights to those of the configuration, or to 0.5 and 1."""
        config = self.config
        thresholds = 0.5 if config.thresholds == "val" else config.thresholds
        weights = config.pos_weight if isinstance(config.pos_weight, float | dict) else 1.0
        self.threshold_K.copy_(_by_class(thresholds, self.classes, "task.thresholds"))
        self.pos_weight_K.copy_(_by_class(weights, self.classes, "task.pos_weight"))

    def fit_labels(self, dataset: Dataset) -> None:
        """Takes ``pos_weight: balanced`` from the training set.

        Raises:
            ConfigError: the training set is a stream, or all of its samples or none have a class.
        """
        if self.config.pos_weight != "balanced":
            return
        key, class_index = "task.pos_weight balanced", {name: index for index, name in enumerate(self.classes)}
        counts_K, total = torch.zeros(len(self.classes)), 0
        for sample in training_labels(dataset, key, "give a weight for each class by name"):
            try:
                indices = label_indices(sample, class_index)
            except BadSample:
                continue
            counts_K[indices] += 1
            total += 1
        for name, count in zip(self.classes, counts_K.tolist(), strict=True):
            if count in (0, total):
                has = "all samples" if count else "no sample"
                raise ConfigError(f"{key}: {has} of train {'have' if count else 'has'} {name!r}; give weights by name")
        self.pos_weight_K.copy_((total - counts_K) / counts_K)

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss, F1, and whether each class is predicted (B, K); mAP is that of the whole split."""
        assert batch.target is not None
        pyramid = self.encoder(batch.tokens)
        logits_BK = over_views(self.by_view(pyramid, batch))
        total = F.binary_cross_entropy_with_logits(
            logits_BK, batch.target, pos_weight=self.pos_weight_K, reduction="sum"
        )
        count = torch.tensor(len(batch), device=total.device)
        mean = total / len(self.classes)
        parts = {"cross_entropy": mean / count} | pyramid.losses
        loss = torch.stack(list(parts.values())).sum()
        scores_BK = logits_BK.detach().sigmoid()
        predicted_BK = scores_BK >= self.threshold_K
        stats = {"loss": (loss.detach() * count, count), "cross_entropy": (mean.detach(), count)}
        rows = {}
        if self.training:
            true_BK = batch.target.bool()
            both = predicted_BK.sum() + true_BK.sum()
            stats["micro_f1"] = (2 * (predicted_BK & true_BK).sum(), both)
        else:
            rows = {"scores": scores_BK, "labels": batch.target}
        return TaskOutput(loss, {name: part.detach() for name, part in parts.items()}, stats, predicted_BK, rows=rows)

    def logits(self, batch: Batch) -> Tensor:
        """(B, K) of the samples of a batch, whose targets need not be there."""
        return over_views(self.by_view(self.encoder(batch.tokens), batch))

    def calibrate(self, rows: Mapping[str, Tensor]) -> None:
        """Chooses the thresholds of the best F1, with ``thresholds: val``."""
        if self.calibrated and rows:
            self.threshold_K.copy_(best_thresholds(rows["scores"], rows["labels"]))

    def summarize(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """MAP and macro-F1 over the classes that have samples, micro-F1, and the share of samples without any error."""
        if not rows:
            return {}
        scores_NK, labels_NK = rows["scores"], rows["labels"].bool()
        predicted_NK = scores_NK >= self.threshold_K.cpu()
        micro, macro, _ = f1_scores(predicted_NK, labels_NK)
        precisions_K = average_precisions(scores_NK, labels_NK)
        return {
            "mAP": float(precisions_K.nanmean()),
            "micro_f1": micro,
            "macro_f1": macro,
            "exact_match": float((predicted_NK == labels_NK).all(1).double().mean()),
        }


def over_views(logits_BVK: Tensor) -> Tensor:
    """(B, K) logits of the probabilities averaged over views."""
    if logits_BVK.shape[1] == 1:
        return logits_BVK[:, 0]
    views = math.log(logits_BVK.shape[1])
    yes, no = (F.logsigmoid(logits).logsumexp(1) - views for logits in (logits_BVK, -logits_BVK))
    return yes - no


def _by_class(values: float | tuple[float, ...] | dict[str, float], classes: tuple[str, ...], key: str) -> Tensor:
    """(K,) the value of each class.

    Raises:
        ConfigError: there are more classes than values, or more values than classes, or they name other classes.
    """
    if isinstance(values, tuple):
        if len(values) != len(classes):
            raise ConfigError(
                f"{key} has {len(values)} values, and the data has {len(classes)} classes: {', '.join(classes[:10])}"
                f"{', ...' if len(classes) > 10 else ''}; give one for each in this order, or one for all"
            )
        return torch.tensor(values)
    return torch.tensor(values_by_class(values, classes, key))
