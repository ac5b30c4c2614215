"""How usual each symbol is, taken off CTC's scores (arXiv 2406.02560).

The blank is by far the most usual. Early on it is likeliest at every step, and nothing else is learned for long; later
symbols last a step each. Where what is usual costs, neither happens.

Shapes: N steps, K outputs: the symbols, silence where it is one, and the blank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.per_step import PerStep
from ..ranks import summed

_RATE = 0.02
"""Part of the usual probabilities that a training step renews."""


class Prior(PerStep):
    """The usual probabilities, a running mean over training steps. A step is scored by those before it.

    Args:
        outputs: how many there are, the blank among them.
        weight: part of the usual log-probabilities that is taken off.
    """

    usual_K: Tensor

    def __init__(self, outputs: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("usual_K", torch.empty(outputs))
        self.reset_parameters()
        self._seen: Tensor | None = None
        """(K + 1,) sums of the probabilities of the step so far, and how many they are over."""

    def reset_parameters(self) -> None:
        """Before anything is learned all are alike."""
        self.usual_K.fill_(1 / len(self.usual_K))

    def scores(self, log_probs_NK: Tensor) -> Tensor:
        """(N, K) log-probabilities less what is usual. They do not add up to 1."""
        return log_probs_NK - (self.weight * self.usual_K.log()).to(log_probs_NK)

    def forward(self, log_probs_NK: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the loss takes, and what it gives back for each step; in evaluation the log-probabilities as they are.

        PyTorch's loss has the right gradient only where the probabilities of a step add up to 1, so that they are made
        to. The logarithms of their sums are then taken off the sum over all paths, each of which has all steps.
        """
        if not self.training:
            return log_probs_NK, None
        scores_NK = self.scores(log_probs_NK)
        if self.is_new_batch:
            self._add(log_probs_NK.detach())
        all_N = scores_NK.logsumexp(-1)
        return scores_NK - all_N[:, None], all_N

    def _add(self, log_probs_NK: Tensor) -> None:
        sums = torch.cat([log_probs_NK.exp().sum(0), log_probs_NK.new_tensor([len(log_probs_NK)])]).double()
        self._seen = sums if self._seen is None else self._seen + sums
        if not self.in_training_step:
            self.on_step_end()

    def on_step_end(self) -> None:
        """Takes in the mean over all batches and ranks of a step."""
        sums = self._seen if self._seen is not None else self.usual_K.new_zeros(len(self.usual_K) + 1).double()
        sums, self._seen = summed(sums), None
        mean_K = (sums[:-1] / sums[-1].clamp(min=1)).to(self.usual_K)
        self.usual_K.copy_(torch.where(sums[-1] > 0, self.usual_K.lerp(mean_K, _RATE), self.usual_K))
