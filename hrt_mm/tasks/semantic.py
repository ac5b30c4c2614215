"""Semantic segmentation: a class for each pixel, from the finest level, which the top-down path gives its context.

Each level-0 token predicts the pixels of its patch by a linear layer, so images may have any and mixed sizes.

Shapes: T level-0 tokens, P pixels of a patch, K classes, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import BadSample, ConfigError
from ..core.levels import HierarchyConfig
from ..core.tokens import Tokens
from ..data.capabilities import DenseLabels
from ..data.sample import Sample
from .base import Collator, TaskOutput
from .batch import Batch
from .encoding import EncoderTask, EncoderTaskConfig, SingleCollator
from .labels import NO_GUESS, NO_LABEL, checked_classes, class_counts, linear_head, values_by_class
from .pooled import training_labels

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..data.tokenizer import Tokenizer


class SemanticSegmentationConfig(EncoderTaskConfig):
    """A class for each pixel."""

    type: Literal["semantic_segmentation"]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of the head's input."""
    ignore: Annotated[int, Field(ge=0)] | None = 255
    """Value of pixels in masks that have no class: they are neither learned nor counted; none when null."""
    class_weights: dict[str, PositiveFloat] | Literal["balanced"] | None = None
    """Weight of each class in the loss, by name; ``balanced`` makes all weigh as much over the training masks."""
    monitor: Literal["miou", "pixel_accuracy", "loss"] = "miou"
    """Selects the best checkpoint."""

    @property
    def stand_ins(self) -> tuple[str, ...]:
        """Classes in place of the data's: those that are named."""
        return tuple(self.class_weights) if isinstance(self.class_weights, dict) else super().stand_ins

    def build(
        self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None
    ) -> SemanticSegmentation:
        """The task's module.

        Raises:
            ConfigError: the data has no classes, weights are not one for each, the modality has no images, or a part of
                the model is never read.
        """
        return SemanticSegmentation(self, model, tokenizer, checked_classes(self.type, classes))

    def collator(
        self,
        models: Mapping[str, HierarchyConfig],
        tokenizers: Mapping[str, Tokenizer],
        classes: tuple[str, ...] | None,
    ) -> Collator:
        """Makes batches of images and masks."""
        return MaskCollator(self, models, tokenizers, classes)

    def mask_of(self, sample: Sample, classes: Sequence[str]) -> Tensor:
        """(H, W) int64 classes of the pixels of a sample, -1 for none.

        Raises:
            BadSample: its label is no mask, or has a value that is no class.
        """
        mask: Any = sample.label
        if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.is_floating_point():
            raise BadSample(sample.name, "its label must be a mask, an integer tensor (H, W)")
        mask = mask.long()
        if self.ignore is not None:
            mask = torch.where(mask == self.ignore, NO_LABEL, mask)
        low, high = (int(value) for value in mask.aminmax())
        if high >= len(classes) or low < NO_LABEL:
            raise BadSample(
                sample.name,
                f"its mask has the value {high if high >= len(classes) else low}, and the {len(classes)} classes are 0 "
                f"to {len(classes) - 1}; task.ignore is {self.ignore}",
            )
        return mask


class MaskCollator(SingleCollator):
    """Collation of images with masks."""

    config: SemanticSegmentationConfig

    def targets(self, samples: Sequence[Sample], tokens: Tokens) -> Tensor:
        """(T, P) int64 classes of the pixels of each token, -1 for none.

        Raises:
            BadSample: a label is no mask of the size of its image.
        """
        assert isinstance(self.tokenizer, DenseLabels)
        masks = [self.config.mask_of(sample, self.classes or ()) for sample in samples]
        for sample, mask in zip(samples, masks, strict=True):
            rows, columns = sample.value.shape[-2:]
            if tuple(mask.shape) != (rows, columns):
                raise BadSample(
                    sample.name,
                    f"its mask has {mask.shape[1]}x{mask.shape[0]} pixels, and the image {columns}x{rows}; a mask must "
                    "have the size of its image",
                )
        return self.tokenizer.label_tokens(masks, NO_LABEL)


class SemanticSegmentation(EncoderTask):
    """Encoder, linear layer to the pixels of each patch, and cross-entropy.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: of images.
        classes: names of the labels.
    """

    weight_K: Tensor

    def __init__(
        self,
        config: SemanticSegmentationConfig,
        model: HierarchyConfig,
        tokenizer: Tokenizer,
        classes: tuple[str, ...],
    ) -> None:
        if not isinstance(tokenizer, DenseLabels):
            raise ConfigError(
                f"task {config.type} labels pixels, and {type(tokenizer).__name__} makes no tokens of them; use "
                "modality.type: vision"
            )
        super().__init__(model, tokenizer, [0])
        self.config, self.classes, self.pixels = config, classes, tokenizer.labels_per_token
        self.monitor, self.monitor_mode = config.monitor, "min" if config.monitor == "loss" else "max"
        self.dropout = nn.Dropout(config.dropout)
        self.head = linear_head(model.levels[0].dim, len(classes) * self.pixels)
        self.register_buffer("weight_K", torch.empty(len(classes)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets the weights of classes to those of the configuration, or to 1."""
        given = self.config.class_weights if isinstance(self.config.class_weights, dict) else 1.0
        self.weight_K.copy_(torch.tensor(values_by_class(given, self.classes, "task.class_weights")))

    def fit_labels(self, dataset: Dataset) -> None:
        """Takes ``class_weights: balanced`` from the training masks.

        Raises:
            ConfigError: the training set is a stream, or a class is in no mask.
        """
        if self.config.class_weights != "balanced":
            return
        key = "task.class_weights balanced"
        counts_K = torch.zeros(len(self.classes), dtype=torch.float64)
        for sample in training_labels(dataset, key, "give a weight for each class by name"):
            mask = self.config.mask_of(sample, self.classes)
            counts_K += torch.bincount(mask[mask != NO_LABEL], minlength=len(self.classes))
        if absent := [name for name, count in zip(self.classes, counts_K.tolist(), strict=True) if not count]:
            raise ConfigError(f"{key}: no training mask has {absent[0]!r}; give weights by name")
        self.weight_K.copy_(counts_K.sum() / (len(self.classes) * counts_K))

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss, pixel accuracy and the predicted classes (T, P); IoU is that of the whole split."""
        assert batch.target is not None
        pyramid = self.encoder(batch.tokens)
        logits_MK = self._logits(pyramid[0].x).flatten(0, 1).float()
        target_M = batch.target.flatten()
        labelled_M = target_M != NO_LABEL
        weight = (self.weight_K[target_M.clamp(min=0)] * labelled_M).sum()
        total = F.cross_entropy(logits_MK, target_M, self.weight_K, ignore_index=NO_LABEL, reduction="sum")
        parts = {"cross_entropy": total / weight.clamp(min=1e-12)} | pyramid.losses
        loss = torch.stack(list(parts.values())).sum()
        guess_M = logits_MK.detach().argmax(-1)
        valid_M = torch.where(logits_MK.detach().isfinite().all(-1), guess_M, NO_GUESS)
        stats = {
            "loss": (loss.detach() * weight, weight),
            "cross_entropy": (total.detach(), weight),
            "pixel_accuracy": ((valid_M == target_M).sum(), labelled_M.sum()),
        }
        rows = {} if self.training else {"counts": class_counts(valid_M, target_M, len(self.classes))[None]}
        guess_TP = guess_M.view(batch.target.shape)
        return TaskOutput(loss, {name: part.detach() for name, part in parts.items()}, stats, guess_TP, rows=rows)

    def logits(self, batch: Batch) -> Tensor:
        """(T, P, K) of the pixels of each token, whose targets need not be there."""
        return self._logits(self.encoder(batch.tokens)[0].x)

    def _logits(self, x_TD: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(x_TD))
        return logits.unflatten(-1, (self.pixels, len(self.classes)))

    def summarize(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean IoU over the classes that a mask has, and the IoU of each."""
        if not rows:
            return {}
        counts_3K = rows["counts"].sum(0)
        iou_K = intersection_over_union(counts_3K)
        present_K = counts_3K[2] > 0
        metrics = {"miou": float(iou_K[present_K].mean())} if present_K.any() else {}
        return metrics | {
            f"iou/{name}": float(value)
            for name, value, present in zip(self.classes, iou_K, present_K, strict=True)
            if present
        }


def intersection_over_union(counts_3K: Tensor) -> Tensor:
    """(K,) float64 from the correct, predicted and true pixels of each class."""
    correct_K, predicted_K, true_K = counts_3K.double()
    return correct_K / (predicted_K + true_K - correct_K).clamp(min=1)
