"""Shared by the tasks that predict labels: class indices, the loss, and exact scores.

Shapes: P predictions, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import BadSample, ConfigError
from ..core.levels import HierarchyConfig
from ..core.linear import InitLinear
from ..core.per_step import PerStep
from ..core.ranks import summed
from ..data.sample import Sample
from .base import TaskConfig, TaskOutput
from .encoding import EncoderTask

if TYPE_CHECKING:
    from ..data.tokenizer import Tokenizer

NO_LABEL, NO_GUESS = -1, -2
"""Target of an unlabelled item, and the prediction where logits are not finite."""


class LabelConfig(TaskConfig):
    """A task whose targets are classes."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing in training."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of the head's input."""
    balance: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Logit adjustment for classes of unequal size: in training, logits are shifted by this factor times the log of the
    class's share of the labels (arXiv 2007.07314). 1 optimizes the mean accuracy of classes."""
    monitor: Literal["accuracy", "macro_f1", "cross_entropy"] = "accuracy"
    """Selects the best checkpoint. Macro-F1, the mean F1 over classes, suits classes of unequal size."""

    def checked_classes(self, classes: tuple[str, ...] | None) -> tuple[str, ...]:
        """The classes, checked.

        Raises:
            ConfigError: the data has fewer than two classes.
        """
        return checked_classes(self.type, classes)


def checked_classes(task: str, classes: tuple[str, ...] | None, fewest: int = 2) -> tuple[str, ...]:
    """The classes of the data, checked.

    Args:
        task: the type of the task, for messages.
        classes: of the training set.
        fewest: number of classes that the task needs.

    Raises:
        ConfigError: the data has no classes, or fewer.
    """
    if classes is None:
        raise ConfigError(f"task {task} needs labels, and the training data has no classes")
    if len(classes) < fewest:
        needs = f"{fewest} class{'es' if fewest > 1 else ''}"
        raise ConfigError(f"task {task} needs {needs} or more, the training data has {list(classes)}")
    return classes


def values_by_class(values: float | Mapping[str, float], classes: Sequence[str], key: str) -> list[float]:
    """The value of each class.

    Args:
        values: one for all, or one for each class by name.
        classes: of the data.
        key: the setting, for messages.

    Raises:
        ConfigError: a class has no value, or a value is of no class.
    """
    if not isinstance(values, Mapping):
        return [float(values)] * len(classes)
    missing = [name for name in classes if name not in values]
    if missing or (unknown := [name for name in values if name not in classes]):
        problem = f"has no value for {', '.join(map(repr, missing[:5]))}" if missing else f"names {unknown[0]!r}"
        listed = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        raise ConfigError(f"{key} {problem}; the classes are {listed}")
    return [float(values[name]) for name in classes]


class LabelTask(EncoderTask):
    """An encoder task that predicts classes: loss and metrics of its logits.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes and the embedding.
        reads: indices of the levels that the head reads.
        classes: names of the labels.
    """

    head: nn.Linear

    def __init__(
        self,
        config: LabelConfig,
        model: HierarchyConfig,
        tokenizer: Tokenizer,
        reads: Sequence[int],
        classes: tuple[str, ...],
    ) -> None:
        super().__init__(model, tokenizer, reads)
        self.monitor, self.monitor_mode = config.monitor, "min" if config.monitor == "cross_entropy" else "max"
        self.scores = LabelScores(config, len(classes))
        self.classes = classes
        self.dropout = nn.Dropout(config.dropout)

    def label_output(self, logits_PK: Tensor, target_P: Tensor, losses: dict[str, Tensor]) -> TaskOutput:
        """Loss, metrics and the predicted classes (P,). Items without a label are ignored.

        Args:
            logits_PK: of the predictions.
            target_P: indices of the true classes, -1 for none.
            losses: the pyramid's.
        """
        output: TaskOutput = self.scores(logits_PK, target_P, losses)
        return output


class LabelScores(PerStep):
    """Loss and metrics of logits.

    With ``balance``, the shares of classes are those of all labels of earlier steps on all ranks, plus one of each.

    Args:
        config: the task.
        classes: number of classes.
    """

    seen_K: Tensor
    weight_K: Tensor | None

    def __init__(self, config: LabelConfig, classes: int) -> None:
        super().__init__()
        self.smoothing, self.balance = config.label_smoothing, config.balance
        if self.balance:
            self.register_buffer("seen_K", torch.ones(classes, dtype=torch.int64))
        self._new: Tensor | None = None
        self._weights: list[float] = []
        self.register_buffer("weight_K", None)

    def set_weights(self, weights: list[float]) -> None:
        """Sets the weight of each class in training.

        Args:
            weights: by class.
        """
        self._weights = weights
        self.register_buffer("weight_K", torch.tensor(weights))

    def reset_parameters(self) -> None:
        """Resets the label counts, and the weights of classes to those that were set."""
        if self.balance:
            self.seen_K.fill_(1)
        if self.weight_K is not None:
            self.weight_K.copy_(torch.tensor(self._weights))

    def forward(self, logits_PK: Tensor, target_P: Tensor, losses: dict[str, Tensor]) -> TaskOutput:
        """Loss, metrics and the predicted classes (P,). Items without a label are ignored.

        Args:
            logits_PK: of the predictions.
            target_P: indices of the true classes, -1 for none; or (P, K) their shares in training, where samples are
                mixed.
            losses: the pyramid's.
        """
        logits_PK = logits_PK.float()
        shares_PK = target_P if target_P.ndim > 1 else None
        if shares_PK is not None:
            target_P = shares_PK.argmax(-1)
        count = (target_P != NO_LABEL).sum()
        training_logits_PK, smoothing = (
            (self._shifted(logits_PK, target_P), self.smoothing) if self.training else (logits_PK, 0.0)
        )
        weight_K, weight = (self.weight_K, count) if self.training else (None, count)
        if weight_K is not None:
            # A mean is then over weights in place of samples, in accumulation too.
            weight = self._weight_of(weight_K, target_P, shares_PK)
        total = F.cross_entropy(
            training_logits_PK,
            target_P if shares_PK is None else shares_PK,
            weight_K,
            ignore_index=NO_LABEL,
            label_smoothing=smoothing,
            reduction="sum",
        )
        parts = {"cross_entropy": total / weight.clamp(min=1 if weight_K is None else 1e-12)} | losses
        loss = torch.stack(list(parts.values())).sum()
        guess_P = logits_PK.detach().argmax(-1)
        # argmax over NaN is arbitrary, so those predictions count for no class.
        valid_P = torch.where(logits_PK.detach().isfinite().all(-1), guess_P, NO_GUESS)
        stats = {
            "loss": (loss.detach() * weight, weight),
            "cross_entropy": (total.detach(), weight),
            "accuracy": ((valid_P == target_P).sum(), count),
        }
        classes = logits_PK.shape[1]
        # Among few classes the five best are nearly all.
        if classes > 10:
            best_P5 = logits_PK.detach().topk(5).indices
            among_P = (best_P5 == target_P[:, None]).any(-1) & (valid_P != NO_GUESS)
            stats["top5"] = (among_P.sum(), count)
        counts = {} if self.training else {"macro_f1": class_counts(valid_P, target_P, classes)}
        return TaskOutput(loss, {name: part.detach() for name, part in parts.items()}, stats, guess_P, counts)

    @staticmethod
    def _weight_of(weight_K: Tensor, target_P: Tensor, shares_PK: Tensor | None) -> Tensor:
        if shares_PK is not None:
            return (shares_PK * weight_K).sum()
        return (weight_K[target_P.clamp(min=0)] * (target_P != NO_LABEL)).sum()

    def _shifted(self, logits_PK: Tensor, target_P: Tensor) -> Tensor:
        if not self.balance:
            return logits_PK
        shifted_PK = logits_PK + self.balance * (self.seen_K / self.seen_K.sum()).log()
        if self.is_new_batch:
            counts_K = torch.zeros(len(self.seen_K) + 1, dtype=torch.int64, device=target_P.device)
            # Not bincount, which waits for the device. Position 0 takes the unlabelled, and is dropped.
            counts_K.scatter_add_(0, target_P + 1, torch.ones_like(target_P))
            self._new = counts_K[1:] if self._new is None else self._new + counts_K[1:]
            if not self.in_training_step:
                self.on_step_end()
        return shifted_PK

    def on_step_end(self) -> None:
        """Adds the labels of all batches and ranks of a step."""
        if self.balance:
            self.seen_K += summed(self._new if self._new is not None else torch.zeros_like(self.seen_K))
            self._new = None


def linear_head(width: int, classes: int) -> nn.Linear:
    """A linear head with near-zero initial logits."""
    return InitLinear(width, classes, partial(nn.init.trunc_normal_, std=0.02), bias=True)


def class_counts(guess_P: Tensor, target_P: Tensor, classes: int) -> Tensor:
    """(3, K) int64: true positives, predictions and labels of each class.

    Args:
        guess_P: predicted classes, -2 for none.
        target_P: true ones, -1 for none.
        classes: number of classes.
    """
    correct_P = torch.where(guess_P == target_P, target_P, NO_LABEL)
    predicted_P = torch.where(target_P == NO_LABEL, NO_LABEL, guess_P).clamp(min=NO_LABEL)
    # Column 0 takes items without a label, and is dropped; bincount would wait for the device.
    index_3P = torch.stack([correct_P, predicted_P, target_P]) + 1
    counts_3K = torch.zeros(3, classes + 1, dtype=torch.int64, device=guess_P.device)
    return counts_3K.scatter_add_(1, index_3P, torch.ones_like(index_3P))[:, 1:]


def macro_f1(counts_3K: Tensor) -> float:
    """Mean F1 over the classes that have samples; NaN where none has.

    Args:
        counts_3K: as :func:`class_counts` gives them, summed over batches.
    """
    correct_K, predicted_K, true_K = counts_3K.double()
    f1_K = 2 * correct_K / (predicted_K + true_K).clamp(min=1)
    return float(f1_K[true_K > 0].mean())


def class_index_of(label: Any, class_index: dict[str, int], name: str) -> int:
    """The class index of a label. A label is the name of a class, or its index.

    Args:
        label: as the data gives it.
        class_index: index of each class by name.
        name: of the sample, for messages.

    Raises:
        BadSample: it is not a class of the training set.
    """
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(class_index):
        return label
    if not isinstance(label, str) or label not in class_index:
        examples = ", ".join(list(class_index)[:10]) + (", ..." if len(class_index) > 10 else "")
        raise BadSample(name, f"label {label!r} is not one of the training set's: {examples}")
    return class_index[label]


def class_indices(samples: Sequence[Sample], classes: tuple[str, ...] | None) -> Tensor:
    """(B,) int64 class indices of the samples.

    Raises:
        BadSample: a label is not a class of the training set.
    """
    class_index = {name: index for index, name in enumerate(classes or ())}
    return torch.tensor([class_index_of(sample.label, class_index, sample.name) for sample in samples])


def level_indices(model: HierarchyConfig, chosen: str | tuple[str, ...] | None) -> list[int]:
    """Indices of the levels in ``task.level``; the coarsest by default.

    Raises:
        ConfigError: there is no such level, or one is named twice.
    """
    names: tuple[str | None, ...] = chosen if isinstance(chosen, tuple) else (chosen,)
    indices = [model.index(name) for name in names]
    if len(set(indices)) != len(indices):
        raise ConfigError(f"task.level names a level twice: {', '.join(map(str, names))}")
    return indices
