"""The losses of contrastive learning, row by row, and their temperature.

Shapes: N rows of this rank, M columns of all ranks.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.component import Component


class TemperatureConfig(Component):
    """What similarities are divided by, learned within bounds."""

    init: PositiveFloat = 0.1
    """Where it starts."""
    min: PositiveFloat = 0.01
    """It stays above this."""
    max: PositiveFloat = 1.0
    """It stays below this."""
    learned: bool = True
    """Whether it moves."""

    @model_validator(mode="after")
    def _inside(self) -> TemperatureConfig:
        if not self.min < self.init < self.max:
            raise ValueError(f"init must lie between min {self.min:g} and max {self.max:g}, got {self.init:g}")
        return self


class InfoNCEConfig(Component):
    """Each row picks its own among all columns (arXiv 2103.00020). Of several positives each has an equal share."""

    type: Literal["infonce"] = "infonce"
    temperature: TemperatureConfig = TemperatureConfig()
    """What similarities are divided by."""


class SigmoidConfig(Component):
    """Each pair is told to be one or not, on its own (SigLIP, arXiv 2303.15343)."""

    type: Literal["sigmoid"]
    temperature: TemperatureConfig = TemperatureConfig()
    """What similarities are divided by."""
    bias: float = -10.0
    """Where the learned bias starts: most pairs of a batch are none."""


Loss = Annotated[InfoNCEConfig | SigmoidConfig, Field(discriminator="type")]


class Temperature(nn.Module):
    """A temperature on a logarithmic scale, kept within its bounds by a sigmoid: its gradient never dies at one.

    Args:
        config: start and bounds.
    """

    def __init__(self, config: TemperatureConfig) -> None:
        super().__init__()
        self.low, self.width = math.log(config.min), math.log(config.max / config.min)
        share = (math.log(config.init) - self.low) / self.width
        self.start = math.log(share / (1 - share))
        self.place = nn.Parameter(torch.empty(()), requires_grad=config.learned)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the temperature to where it starts."""
        nn.init.constant_(self.place, self.start)

    def forward(self) -> Tensor:
        """The temperature, a scalar."""
        return (self.low + self.width * torch.sigmoid(self.place.float())).exp()


class ContrastiveLoss(nn.Module):
    """One of the losses over a matrix of similarities.

    Args:
        config: which one.
    """

    def __init__(self, config: InfoNCEConfig | SigmoidConfig) -> None:
        super().__init__()
        self.temperature = Temperature(config.temperature)
        self.start = config.bias if isinstance(config, SigmoidConfig) else None
        self.bias = nn.Parameter(torch.empty(())) if self.start is not None else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the bias to where it starts."""
        if self.bias is not None and self.start is not None:
            nn.init.constant_(self.bias, self.start)

    @property
    def both_ways(self) -> bool:
        """Whether rows and columns are scored apart; the sigmoid loss has every pair in its rows."""
        return self.bias is None

    def forward(self, similarity_NM: Tensor, positive_NM: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of the rows.

        Args:
            similarity_NM: of this rank's rows with all columns.
            positive_NM: which pairs are one.

        Returns:
            (N,) losses, and (N,) bool: which rows count. Of InfoNCE those without a positive do not.
        """
        logits_NM = similarity_NM.float() / self.temperature()
        if self.bias is not None:
            sign_NM = torch.where(positive_NM, 1.0, -1.0)
            return -F.logsigmoid(sign_NM * (logits_NM + self.bias)).sum(1), torch.ones_like(positive_NM[:, 0])
        positives_N = positive_NM.sum(1)
        share_NM = positive_NM / positives_N.clamp(min=1)[:, None]
        return -(share_NM * logits_NM.log_softmax(1)).sum(1), positives_N > 0
