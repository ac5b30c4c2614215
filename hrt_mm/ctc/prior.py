"""How usual each symbol is, taken off CTC's scores (arXiv 2406.02560).

The blank is by far the most usual. Early on it is likeliest at every step, and nothing else is learned for long; later
symbols last a step each. Where what is usual costs, neither happens.

Shapes: N steps, K symbols and the blank, which is the last.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_RATE = 0.02
"""Part of the usual probabilities that a batch renews."""


class Prior(nn.Module):
    """The usual probabilities, a running mean over training batches.

    Args:
        symbols: how many there are.
        weight: part of the usual log-probabilities that is taken off.
        fade: training batches over which the weight falls to 0 in a straight line; it stays when 0.
    """

    usual_K: Tensor
    batches: Tensor

    def __init__(self, symbols: int, weight: float, fade: int) -> None:
        super().__init__()
        self.weight, self.fade = weight, fade
        # Before anything is learned all are alike.
        self.register_buffer("usual_K", torch.full((symbols + 1,), 1 / (symbols + 1)))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def scores(self, log_probs_NK: Tensor) -> Tensor:
        """(N, K + 1) log-probabilities less what is usual. They do not add up to 1."""
        weight: float | Tensor = self.weight
        if self.fade:
            weight = weight * (1 - self.batches / self.fade).clamp(min=0)
        return log_probs_NK - (weight * self.usual_K.log()).to(log_probs_NK)

    def forward(self, log_probs_NK: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the loss takes, and what it gives back for each step; in evaluation the log-probabilities as they are.

        PyTorch's loss has the right gradient only where the probabilities of a step add up to 1, so that they are made
        to. The logarithms of their sums are then taken off the sum over all paths, each of which has all steps.
        """
        if not self.training:
            return log_probs_NK, None
        if len(log_probs_NK):
            self.usual_K.lerp_(log_probs_NK.detach().exp().mean(0).to(self.usual_K), _RATE)
        scores_NK = self.scores(log_probs_NK)
        self.batches += 1
        all_N = scores_NK.logsumexp(-1)
        return scores_NK - all_N[:, None], all_N
