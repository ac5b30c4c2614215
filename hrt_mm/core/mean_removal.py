"""A running mean of packed tokens over training steps, and tokens without it.

Shapes: S tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .devices import wide
from .per_step import PerStep
from .ranks import summed

_RATE = 0.1
"""Weight of a training step in the running mean."""


class MeanRemoval(PerStep):
    """Subtracts the mean of the tokens of a source, a running mean over training steps; a step does not count itself.

    A decoder first learns what texts are like, to which a source can only add a constant; without the subtraction, the
    encoder of the source may become constant in the meantime, and has nothing left to tell.

    Args:
        dim: width.
    """

    mean_D: Tensor
    steps: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.empty(dim))
        self.register_buffer("steps", torch.empty((), dtype=torch.int64))
        self.reset_parameters()
        self._sums: Tensor | None = None
        """(D + 1,) sums of the tokens of the step so far, and their number."""

    def reset_parameters(self) -> None:
        """A mean of zero, which the first step replaces."""
        self.mean_D.zero_()
        self.steps.zero_()

    def forward(self, x_SD: Tensor) -> Tensor:
        """(S, D) tokens without their mean."""
        without_SD = x_SD - self.mean_D.to(x_SD.dtype)
        if self.is_new_batch:
            self._add(x_SD.detach())
        return without_SD

    def _add(self, x_SD: Tensor) -> None:
        sums = wide(torch.cat([x_SD.sum(0), x_SD.new_tensor([len(x_SD)])]))
        self._sums = sums if self._sums is None else self._sums + sums
        if not self.in_training_step:
            self.on_step_end()

    def on_step_end(self) -> None:
        """Updates the running mean with all batches and ranks of a step."""
        sums = self._sums if self._sums is not None else wide(self.mean_D.new_zeros(len(self.mean_D) + 1))
        sums, self._sums = summed(sums), None
        mean_D = (sums[:-1] / sums[-1].clamp(min=1)).to(self.mean_D)
        rate = torch.where(self.steps == 0, 1.0, _RATE).to(self.mean_D)
        self.mean_D.copy_(torch.where(sums[-1] > 0, self.mean_D.lerp(mean_D, rate), self.mean_D))
        self.steps += (sums[-1] > 0).to(self.steps)
