"""What the tasks that predict labels share: places of labels among the classes, the loss, and exact scores.

Shapes: P predictions, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from ..data.sample import Sample
from .base import TaskConfig, TaskOutput
from .encoding import EncoderTask
from .ranks import summed

if TYPE_CHECKING:
    from ..data.tokenizer import Tokenizer

NO_LABEL, NO_GUESS = -1, -2
"""Target where nothing is to be predicted, and the guess of logits that are not finite."""


class LabelConfig(TaskConfig):
    """A task whose targets are classes."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the target that is spread over all classes in training."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability to drop a value of what the head reads in training."""
    balance: Annotated[float, Field(ge=0, le=2)] = 0.0
    """How far to aim at the mean accuracy of classes of unequal size: in training, logits are raised by so many times
    the logarithm of their class's share of the labels (arXiv 2007.07314). 1 weighs all classes alike."""
    monitor: Literal["accuracy", "macro_f1", "cross_entropy"] = "accuracy"
    """What chooses the best checkpoint. Macro-F1, the mean of the F1 of each class, is for classes of unequal size."""

    def known(self, classes: tuple[str, ...] | None) -> tuple[str, ...]:
        """The classes, checked.

        Raises:
            ConfigError: the data has no classes, or one alone.
        """
        if classes is None:
            raise ConfigError(f"task {self.type} needs labels, and the training data has no classes")
        if len(classes) < 2:
            raise ConfigError(f"task {self.type} needs 2 classes or more, the training data has {list(classes)}")
        return classes


class LabelTask(EncoderTask):
    """An encoder task that predicts classes: the loss and the metrics of its logits.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes and the embedding.
        reads: places of the levels that the head reads.
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

    def scored(self, logits_PK: Tensor, target_P: Tensor, losses: dict[str, Tensor]) -> TaskOutput:
        """Loss, metrics and the predicted classes (P,). What has no label counts nowhere.

        Args:
            logits_PK: of the predictions.
            target_P: places of the true classes, -1 for none.
            losses: the pyramid's.
        """
        found: TaskOutput = self.scores(logits_PK, target_P, losses)
        return found


class LabelScores(PerStep):
    """Loss and metrics of logits.

    With ``balance``, the classes' shares are those of all labels of the steps before, on all ranks, and one more
    of each.

    Args:
        config: the task.
        classes: how many there are.
    """

    seen_K: Tensor

    def __init__(self, config: LabelConfig, classes: int) -> None:
        super().__init__()
        self.smoothing, self.balance = config.label_smoothing, config.balance
        if self.balance:
            self.register_buffer("seen_K", torch.ones(classes, dtype=torch.int64))
        self._new: Tensor | None = None

    def reset_parameters(self) -> None:
        """Forgets the labels."""
        if self.balance:
            self.seen_K.fill_(1)

    def forward(self, logits_PK: Tensor, target_P: Tensor, losses: dict[str, Tensor]) -> TaskOutput:
        """Loss, metrics and the predicted classes (P,). What has no label counts nowhere.

        Args:
            logits_PK: of the predictions.
            target_P: places of the true classes, -1 for none.
            losses: the pyramid's.
        """
        logits_PK = logits_PK.float()
        count = (target_P != NO_LABEL).sum()
        asked_PK, smoothing = (
            (self._shifted(logits_PK, target_P), self.smoothing) if self.training else (logits_PK, 0.0)
        )
        total = F.cross_entropy(asked_PK, target_P, ignore_index=NO_LABEL, label_smoothing=smoothing, reduction="sum")
        parts = {"cross_entropy": total / count.clamp(min=1)} | losses
        loss = torch.stack(list(parts.values())).sum()
        guess_P = logits_PK.detach().argmax(-1)
        # The largest of logits that are NaN is any class: none counts as guessed.
        counted_P = torch.where(logits_PK.detach().isfinite().all(-1), guess_P, NO_GUESS)
        stats = {
            "loss": (loss.detach() * count, count),
            "cross_entropy": (total.detach(), count),
            "accuracy": ((counted_P == target_P).sum(), count),
        }
        classes = logits_PK.shape[1]
        if classes > 10:
            best_P5 = logits_PK.detach().topk(5).indices
            among_P = (best_P5 == target_P[:, None]).any(-1) & (counted_P != NO_GUESS)
            stats["top5"] = (among_P.sum(), count)
        counts = {} if self.training else {"macro_f1": class_counts(counted_P, target_P, classes)}
        return TaskOutput(loss, {name: part.detach() for name, part in parts.items()}, stats, guess_P, counts)

    def _shifted(self, logits_PK: Tensor, target_P: Tensor) -> Tensor:
        if not self.balance:
            return logits_PK
        shifted_PK = logits_PK + self.balance * (self.seen_K / self.seen_K.sum()).log()
        if self.is_new_batch:
            own_K = torch.zeros(len(self.seen_K) + 1, dtype=torch.int64, device=target_P.device)
            own_K.scatter_add_(0, target_P + 1, torch.ones_like(target_P))
            self._new = own_K[1:] if self._new is None else self._new + own_K[1:]
            if not self.in_training_step:
                self.on_step_end()
        return shifted_PK

    def on_step_end(self) -> None:
        """Counts the labels of all batches and ranks of a step."""
        if self.balance:
            self.seen_K += summed(self._new if self._new is not None else torch.zeros_like(self.seen_K))
            self._new = None


def linear_head(width: int, classes: int) -> nn.Linear:
    """A head that starts without an opinion."""
    return InitLinear(width, classes, partial(nn.init.trunc_normal_, std=0.02), bias=True)


def class_counts(guess_P: Tensor, target_P: Tensor, classes: int) -> Tensor:
    """(3, K) int64: of each class how many were predicted rightly, were predicted, and are true.

    Args:
        guess_P: predicted classes, -2 where there is no guess.
        target_P: true ones, -1 for none.
        classes: how many there are.
    """
    right_P = torch.where(guess_P == target_P, target_P, NO_LABEL)
    asked_P = torch.where(target_P == NO_LABEL, NO_LABEL, guess_P).clamp(min=NO_LABEL)
    places_3P = torch.stack([right_P, asked_P, target_P]) + 1
    counts_3K = torch.zeros(3, classes + 1, dtype=torch.int64, device=guess_P.device)
    return counts_3K.scatter_add_(1, places_3P, torch.ones_like(places_3P))[:, 1:]


def macro_f1(counts_3K: Tensor) -> float:
    """The mean F1 of the classes that have samples; not a number where none has.

    Args:
        counts_3K: as :func:`class_counts` gives them, summed over batches.
    """
    right_K, guessed_K, true_K = counts_3K.double()
    f1_K = 2 * right_K / (guessed_K + true_K).clamp(min=1)
    return float(f1_K[true_K > 0].mean())


def place_of(label: Any, places: dict[str, int], name: str) -> int:
    """The place of a label among the classes. A label is a class's name, or its place.

    Args:
        label: as the data gives it.
        places: of the classes by name.
        name: of the sample, for messages.

    Raises:
        BadSample: it is not one of the training set's.
    """
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(places):
        return label
    if not isinstance(label, str) or label not in places:
        known = ", ".join(list(places)[:10]) + (", ..." if len(places) > 10 else "")
        raise BadSample(name, f"label {label!r} is not one of the training set's: {known}")
    return places[label]


def places_of(samples: Sequence[Sample], classes: tuple[str, ...] | None) -> Tensor:
    """(B,) int64 places of the samples' labels among the classes.

    Raises:
        BadSample: a label is not one of the training set's.
    """
    places = {name: place for place, name in enumerate(classes or ())}
    return torch.tensor([place_of(sample.label, places, sample.name) for sample in samples])


def level_places(model: HierarchyConfig, chosen: str | tuple[str, ...] | None) -> list[int]:
    """Places of the levels that ``task.level`` names; that of the coarsest where it names none.

    Raises:
        ConfigError: there is no such level, or one is named twice.
    """
    names: tuple[str | None, ...] = chosen if isinstance(chosen, tuple) else (chosen,)
    places = [model.index(name) for name in names]
    if len(set(places)) != len(places):
        raise ConfigError(f"task.level names a level twice: {', '.join(map(str, names))}")
    return places
