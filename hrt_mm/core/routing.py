"""Learned groups: a router predicts boundaries between neighbours (dynamic chunking of H-Net, arXiv 2507.07955).

Shapes: T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .host import on_host
from .levels import LearnedGroups
from .linear import InitLinear
from .norm import rms_norm
from .per_step import PerStep
from .segments import limit_group_length
from .spans import Spans

_WARMUP_TARGET = 2.0
"""Tokens per group at the start of the warm-up."""
_EPS = 1e-4
"""Clamps probabilities away from 0 and 1, so that the binary cross-entropy stays finite."""


@dataclass(frozen=True, eq=False)
class Routing:
    """Boundaries of a batch.

    Args:
        starts_T: bool, true where a group starts, including first tokens and groups split at the maximum length.
        prob_T: boundary probabilities; 1 at first tokens.
        confidence_T: ones, with the gradient of the probability of the decision made at each token (a straight-through
            estimator, as in H-Net).
        doubt_T: zeros, with the gradient of the probability that there is no boundary at the token.
        loss: the ratio loss, scalar.
        forced: fraction of the starts that the maximum length caused, scalar.
    """

    starts_T: Tensor
    prob_T: Tensor
    confidence_T: Tensor
    doubt_T: Tensor
    loss: Tensor
    forced: Tensor


class Router(PerStep):
    """Predicts a boundary before each token from its dissimilarity to the token before (H-Net eq. 4).

    A decision depends on a token and its predecessor only, so routing is causal.
    """

    batches: Tensor

    def __init__(self, dim: int, config: LearnedGroups) -> None:
        super().__init__()
        self.target, self.max_length, self.warmup = config.target, config.max, config.warmup
        if self.warmup:
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        # Identities at first: boundaries are where the tokens themselves differ (H-Net).
        self.before = InitLinear(dim, dim, nn.init.eye_)
        self.here = InitLinear(dim, dim, nn.init.eye_)

    def reset_parameters(self) -> None:
        """Restarts the warm-up."""
        if self.warmup:
            self.batches.zero_()

    def forward(self, x_TD: Tensor, samples: Spans) -> Routing:
        """Predicts the boundaries of packed samples."""
        if self.is_new_batch and not self.in_training_step:
            self.on_step_begin()
        normed_TD = rms_norm(x_TD)
        # Pairs are compared across samples too; the first token of a sample then gets probability 1.
        prob_T = F.pad(self.between(normed_TD[:-1], normed_TD[1:]), (1, 0), value=1.0)
        prob_T = torch.where(self._is_first(samples), 1.0, prob_T)
        predicted_T = prob_T > 0.5
        # Groups that would grow too long are split. The ratio loss below counts the router's own predictions only.
        # The first token of a sample has probability 1, hence is a start, as the limit needs.
        starts_T = limit_group_length(predicted_T, self.max_length)
        decision_prob_T = torch.where(starts_T, prob_T, 1 - prob_T)
        return Routing(
            starts_T,
            prob_T,
            1 + (decision_prob_T - decision_prob_T.detach()),
            prob_T.detach() - prob_T,
            self._ratio_loss(predicted_T, prob_T),
            (starts_T & ~predicted_T).float().sum() / starts_T.float().sum().clamp(min=1),
        )

    def on_step_begin(self) -> None:
        """Advances the warm-up."""
        if self.warmup:
            self.batches += 1

    def between(self, before_TD: Tensor, here_TD: Tensor) -> Tensor:
        """(T,) probabilities of a boundary between normalized neighbours."""
        before_TD, here_TD = self.before(before_TD), self.here(here_TD)
        # Half precision would round the products and sums of a whole row.
        wide = torch.promote_types(before_TD.dtype, torch.float32)
        similarity_T = F.cosine_similarity(before_TD.to(wide), here_TD.to(wide), dim=-1)
        return (1 - similarity_T) / 2

    def supervised(self, routing: Routing, truth_T: Tensor, samples: Spans) -> Tensor:
        """Mean binary cross-entropy between predicted and true boundaries, over all tokens but the first of a sample.

        Args:
            routing: of the tokens.
            truth_T: (T,) bool, where groups should start.
            samples: the samples.
        """
        counted_T = ~self._is_first(samples)
        prob_T = routing.prob_T.float().clamp(_EPS, 1 - _EPS)
        loss_T = F.binary_cross_entropy(prob_T, truth_T.float(), reduction="none")
        return (loss_T * counted_T).sum() / counted_T.sum().clamp(min=1)

    @on_host
    def _is_first(self, samples: Spans) -> Tensor:
        mask_T = torch.zeros(samples.total, dtype=torch.bool)
        first = samples.host[:-1]
        mask_T[first[first < samples.total]] = True
        return mask_T.to(samples.device, non_blocking=True)

    def current_target(self) -> float | Tensor:
        """Target tokens per group of the ratio loss at this point of the warm-up."""
        if not self.warmup or self.target <= _WARMUP_TARGET:
            return self.target
        return _WARMUP_TARGET + (self.target - _WARMUP_TARGET) * (self.batches / self.warmup).clamp(max=1)

    def _ratio_loss(self, predicted_T: Tensor, prob_T: Tensor) -> Tensor:
        """H-Net eq. 10. Its minimum, 1, is where a fraction 1/target of the tokens starts a group."""
        if not len(prob_T):
            return prob_T.sum()
        # The fraction of boundaries has no gradient; the mean probability, which follows it, carries it.
        fraction, mean, n = predicted_T.float().mean(), prob_T.mean(), self.current_target()
        return n / (n - 1) * ((n - 1) * fraction * mean + (1 - fraction) * (1 - mean))
