"""A label prior for CTC, subtracted from its scores (arXiv 2406.02560).

The blank is by far the most frequent output. Early on it is the likeliest at every frame, so that little else is
learned for long; later each symbol lasts a single frame. Subtracting a prior prevents both.

Shapes: N frames, K outputs: the symbols, silence where it is one, and the blank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.devices import wide
from ...core.per_step import PerStep
from ...core.ranks import summed

_RATE = 0.02
"""Weight of a training step in the running mean."""


class Prior(PerStep):
    """Mean output probabilities, a running mean over training steps. A step is scored with the mean of earlier ones.

    Args:
        outputs: number of outputs, with the blank.
        weight: of the log-prior that is subtracted.
    """

    usual_K: Tensor

    def __init__(self, outputs: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("usual_K", torch.empty(outputs))
        self.reset_parameters()
        self._sums: Tensor | None = None
        """(K + 1,) sums of the probabilities of the step so far, and the number of frames."""

    def reset_parameters(self) -> None:
        """A uniform prior."""
        self.usual_K.fill_(1 / len(self.usual_K))

    def scores(self, log_probs_NK: Tensor) -> Tensor:
        """(N, K) log-probabilities minus the weighted log-prior. They are not normalized."""
        return log_probs_NK - (self.weight * self.usual_K.log()).to(log_probs_NK)

    def forward(self, log_probs_NK: Tensor) -> tuple[Tensor, Tensor | None]:
        """Normalized scores and their log-normalizers; in evaluation the log-probabilities as they are.

        PyTorch's CTC loss has the right gradient only where the probabilities of a frame add up to 1, so the scores are
        normalized. Every path has all frames, so the loss subtracts the log-normalizers again.
        """
        if not self.training:
            return log_probs_NK, None
        scores_NK = self.scores(log_probs_NK)
        if self.is_new_batch:
            self._add(log_probs_NK.detach())
        log_norm_N = scores_NK.logsumexp(-1)
        return scores_NK - log_norm_N[:, None], log_norm_N

    def _add(self, log_probs_NK: Tensor) -> None:
        sums = wide(torch.cat([log_probs_NK.exp().sum(0), log_probs_NK.new_tensor([len(log_probs_NK)])]))
        self._sums = sums if self._sums is None else self._sums + sums
        if not self.in_training_step:
            self.on_step_end()

    def on_step_end(self) -> None:
        """Updates the running mean with all batches and ranks of a step."""
        sums = self._sums if self._sums is not None else wide(self.usual_K.new_zeros(len(self.usual_K) + 1))
        sums, self._sums = summed(sums), None
        mean_K = (sums[:-1] / sums[-1].clamp(min=1)).to(self.usual_K)
        self.usual_K.copy_(torch.where(sums[-1] > 0, self.usual_K.lerp(mean_K, _RATE), self.usual_K))
