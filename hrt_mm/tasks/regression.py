"""Regression: one or several numbers per sample, from the pooled vectors of one or several levels.

Numbers are learned in units of their standard deviation in the training set, and predicted in their own. A sample may
have several views; its prediction is the mean over them.

Shapes: B samples, R numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import BadSample, ConfigError
from ..core.levels import HierarchyConfig
from ..core.pyramid import Pyramid
from ..core.tokens import Tokens
from ..data.sample import Sample
from .base import TaskOutput
from .batch import Batch
from .pooled import PooledTask, PooledTaskConfig, training_labels

if TYPE_CHECKING:
    from ..data.dataset import Dataset
    from ..data.tokenizer import Tokenizer

Name = Annotated[str, Field(min_length=1, pattern=r"^[^/]+$")]


class RegressionConfig(PooledTaskConfig):
    """One or several numbers per sample."""

    type: Literal["regression"]
    outputs: Annotated[tuple[Name, ...], Field(min_length=1)] = ("value",)
    """Names of the numbers, in the order in which the data gives them."""
    loss: Literal["mse", "huber", "l1"] = "mse"
    """Squared error, Huber's loss, or absolute error, of standardized numbers."""
    delta: PositiveFloat = 1.0
    """Standard deviations beyond which Huber's loss is linear."""
    mean: tuple[float, ...] | None = None
    """Mean of each number, which is subtracted; that of the training set when null."""
    std: tuple[PositiveFloat, ...] | None = None
    """Standard deviation of each number, which is divided by; that of the training set when null."""
    monitor: Literal["rmse", "mae", "r2", "loss"] = "rmse"
    """Selects the best checkpoint."""

    @model_validator(mode="after")
    def _possible(self) -> RegressionConfig:
        if self.loss != "huber" and self.delta != 1.0:
            raise ValueError("delta is for loss: huber; drop it")
        if len(set(self.outputs)) != len(self.outputs):
            raise ValueError(f"outputs names a number twice: {', '.join(self.outputs)}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together; give both, or neither")
        for key, given in (("mean", self.mean), ("std", self.std)):
            if given is not None and len(given) != len(self.outputs):
                raise ValueError(f"{key} has {len(given)} values for {len(self.outputs)} outputs; give as many")
        return self

    @property
    def labelled(self) -> bool:
        """Labels are numbers, also where the data calls them classes."""
        return False

    def build(self, model: HierarchyConfig, tokenizer: Tokenizer, classes: tuple[str, ...] | None) -> Regression:
        """The task's module.

        Raises:
            ConfigError: there is no such level, or a part of the model is never read.
        """
        return Regression(self, model, tokenizer)

    def numbers(self, sample: Sample) -> tuple[float, ...]:
        """The numbers of a sample: its label as a number, a text that is one, or a list of them.

        Raises:
            BadSample: they are no finite numbers, or more or fewer than ``outputs``.
        """
        label = sample.label
        parts = label if isinstance(label, list | tuple) else [label]
        numbers = tuple(_number(part, label, sample.name) for part in parts)
        if len(numbers) != len(self.outputs):
            raise BadSample(
                sample.name,
                f"has {len(numbers)} numbers, and task.outputs names {len(self.outputs)}: {', '.join(self.outputs)}",
            )
        return numbers

    def targets(self, samples: Sequence[Sample], tokens: Tokens, classes: tuple[str, ...] | None) -> Tensor:
        """(B, R) float32 numbers.

        Raises:
            BadSample: a label is not as many finite numbers as ``outputs``.
        """
        return torch.tensor([self.numbers(sample) for sample in samples], dtype=torch.float32)


def _number(part: Any, label: Any, name: str) -> float:
    try:
        if isinstance(part, bool) or not math.isfinite(number := float(part)):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise BadSample(name, f"its label must be finite numbers, got {label!r:.80}") from error
    return number


class Regression(PooledTask):
    """Encoder and linear head.

    Args:
        config: the task.
        model: the hierarchy.
        tokenizer: gives the axes and the embedding.
    """

    mean_R: Tensor
    std_R: Tensor

    def __init__(self, config: RegressionConfig, model: HierarchyConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config, model, tokenizer, len(config.outputs))
        self.config, self.outputs = config, config.outputs
        self.monitor, self.monitor_mode = config.monitor, "max" if config.monitor == "r2" else "min"
        self.register_buffer("mean_R", torch.empty(len(self.outputs)))
        self.register_buffer("std_R", torch.empty(len(self.outputs)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Resets the scale of the numbers to that of the configuration, or to none."""
        count = len(self.outputs)
        self.mean_R.copy_(torch.tensor(self.config.mean or [0.0] * count))
        self.std_R.copy_(torch.tensor(self.config.std or [1.0] * count))

    def fit_labels(self, dataset: Dataset) -> None:
        """Takes mean and standard deviation of the numbers from the training set, unless they are given.

        Raises:
            ConfigError: the training set is a stream or has no usable label, or a number is the same in all samples.
        """
        config = self.config
        if config.mean is not None:
            return
        rows = []
        for sample in training_labels(dataset, "the scale of task regression", "set task.mean and task.std"):
            try:
                rows.append(config.numbers(sample))
            except BadSample as error:
                reason = error
                continue
        if not rows:
            raise ConfigError(f"no sample of train has numbers for task regression; {reason}")
        numbers_NR = torch.tensor(rows, dtype=torch.float64)
        std_R = numbers_NR.std(0, correction=0)
        for name, std, mean in zip(self.outputs, std_R.tolist(), numbers_NR.mean(0).tolist(), strict=True):
            if std <= 1e-12 * max(1.0, abs(mean)):
                raise ConfigError(f"task.outputs: {name!r} is {mean:g} in all samples of train; leave it out")
        self.mean_R.copy_(numbers_NR.mean(0))
        self.std_R.copy_(std_R)

    def forward(self, batch: Batch) -> TaskOutput:
        """Loss, MAE, and the predicted numbers (B, R). RMSE and R2 are those of the whole split."""
        assert batch.target is not None
        pyramid = self.encoder(batch.tokens)
        scaled_BR = self.by_view(pyramid, batch).mean(1)
        target_BR = (batch.target - self.mean_R) / self.std_R
        if self.config.loss == "mse":
            total = F.mse_loss(scaled_BR, target_BR, reduction="sum")
        elif self.config.loss == "l1":
            total = F.l1_loss(scaled_BR, target_BR, reduction="sum")
        else:
            total = F.huber_loss(scaled_BR, target_BR, reduction="sum", delta=self.config.delta)
        count = torch.tensor(len(batch), device=total.device)
        mean = total / len(self.outputs)
        parts = {self.config.loss: mean / count} | pyramid.losses
        loss = torch.stack(list(parts.values())).sum()
        predicted_BR = self._unscaled(scaled_BR.detach())
        errors_B = (predicted_BR - batch.target).abs().mean(1)
        stats = {
            "loss": (loss.detach() * count, count),
            self.config.loss: (mean.detach(), count),
            "mae": (errors_B.sum(), count),
        }
        rows = {} if self.training else {"predicted": predicted_BR, "target": batch.target}
        return TaskOutput(loss, {name: part.detach() for name, part in parts.items()}, stats, predicted_BR, rows=rows)

    def view_outputs(self, pyramid: Pyramid) -> Tensor:
        """(B * V, R) numbers predicted of each view."""
        return self._unscaled(self.view_logits(pyramid))

    def predict(self, batch: Batch) -> Tensor:
        """(B, R) numbers of the samples of a batch, whose targets need not be there."""
        return self._unscaled(self.by_view(self.encoder(batch.tokens), batch).mean(1))

    def _unscaled(self, scaled_BR: Tensor) -> Tensor:
        return scaled_BR * self.std_R + self.mean_R

    def summarize(self, rows: Mapping[str, Tensor]) -> dict[str, float]:
        """RMSE and R2 of a split, means over the numbers, and MAE, RMSE and R2 of each where there are several."""
        if not rows:
            return {}
        predicted_NR, target_NR = rows["predicted"].double(), rows["target"].double()
        mae_R, rmse_R, r2_R = scores_of(predicted_NR, target_NR)
        metrics = {"rmse": float(rmse_R.mean()), "r2": float(r2_R.mean())}
        if len(self.outputs) > 1:
            for name, values in (("mae", mae_R), ("rmse", rmse_R), ("r2", r2_R)):
                metrics |= {f"{name}/{output}": float(values[at]) for at, output in enumerate(self.outputs)}
        return metrics


def scores_of(predicted_NR: Tensor, target_NR: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(R,) mean absolute error, root mean squared error, and coefficient of determination of each number.

    R2 is NaN where the targets are all equal.
    """
    error_NR = predicted_NR - target_NR
    squared_R = error_NR.square().mean(0)
    variance_R = target_NR.var(0, correction=0)
    r2_R = torch.where(variance_R > 0, 1 - squared_R / variance_R, torch.nan)
    return error_NR.abs().mean(0), squared_R.sqrt(), r2_R
