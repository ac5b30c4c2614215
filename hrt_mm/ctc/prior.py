"""How usual each symbol is, taken off CTC's scores (arXiv 2406.02560).

The blank is by far the most usual. Early on it is likeliest at every step, and nothing else is learned for long; later
symbols last a step each. Where what is usual costs, neither happens.

Shapes: N steps, K outputs: the symbols, silence where it is one, and the blank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_RATE = 0.02
"""Part of the usual probabilities that a batch renews."""


class Prior(nn.Module):
    """The usual probabilities, a running mean over training batches.

    Args:
        outputs: how many there are, the blank among them.
        weight: part of the usual log-probabilities that is taken off.
    """

    usual_K: Tensor

    def __init__(self, outputs: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        # Before anything is learned all are alike.
        self.register_buffer("usual_K", torch.full((outputs,), 1 / outputs))

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
        if len(log_probs_NK):
            self.usual_K.lerp_(log_probs_NK.detach().exp().mean(0).to(self.usual_K), _RATE)
        scores_NK = self.scores(log_probs_NK)
        all_N = scores_NK.logsumexp(-1)
        return scores_NK - all_N[:, None], all_N
