"""Learned groups that start where the model is uncertain (entropy patching of BLT, arXiv 2412.09871).

How hard the token after each token was to predict is known once a language model was trained on it. A linear regression
predicts it from the tokens of the level, in closed form: its sums are those of recent training steps, so that a few
steps are enough, and no gradient passes between the boundaries and the model.

Shapes: T tokens, D width, E = D + 2 columns: a token, a one and what is predicted.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from .devices import wide
from .levels import LearnedGroups
from .ranks import summed
from .routing import Router, Routing
from .spans import Spans

_MEMORY = 0.8
"""Weight of all earlier training steps in the sums of the regression: tokens change as their level learns."""
_RIDGE = 1e-3
"""Weight of the penalty on squared coefficients, relative to the mean square of a feature of the tokens, which is 1."""


class UncertaintyRouter(Router):
    """A boundary is before a token that is hard to predict from those before it.

    Its log-odds are the standard score of the predicted cross-entropy among all tokens, so that they keep their scale
    while the model learns.

    Args:
        dim: D.
        config: of the groups.
    """

    first = math.inf
    weight_D: Tensor
    bias: Tensor
    next_weight_D: Tensor
    next_bias: Tensor
    sums_EE: Tensor

    def __init__(self, dim: int, config: LearnedGroups) -> None:
        # Where a share 1 / target of normally distributed scores begins.
        super().__init__(config, NormalDist().inv_cdf(1 - 1 / config.target))
        for name in ("weight_D", "next_weight_D"):
            self.register_buffer(name, torch.empty(dim))
        for name in ("bias", "next_bias"):
            self.register_buffer(name, torch.empty(()))
        self.register_buffer("sums_EE", torch.empty(dim + 2, dim + 2))
        self._products: Tensor | None = None
        """(E, E) sums of products of columns over the tokens of the step so far."""
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Forgets all steps. The first coefficients are arbitrary and of one scale; the same on all ranks."""
        super().reset_parameters()
        dim = len(self.weight_D)
        index_D = torch.arange(dim, device=self.weight_D.device, dtype=torch.float32)
        self.weight_D.copy_((index_D + 1).square().sin() * math.sqrt(2 / dim))
        self.next_weight_D.copy_(self.weight_D)
        for buffer in (self.bias, self.next_bias, self.sums_EE):
            buffer.zero_()

    def score(self, before_TD: Tensor, here_TD: Tensor) -> Tensor:
        """(T,) standard scores of the cross-entropy that is expected after the tokens before."""
        dtype = torch.promote_types(before_TD.dtype, torch.float32)
        score_T: Tensor = before_TD.detach().to(dtype) @ self.weight_D.to(dtype) + self.bias.to(dtype)
        return score_T

    def log_odds(self, score_T: Tensor) -> Tensor:
        """(T,) the scores."""
        return score_T

    def probability(self, score_T: Tensor) -> Tensor:
        """(T,) probabilities after the offset."""
        return (score_T - self.offset.to(score_T.dtype)).sigmoid()

    @torch.no_grad()
    def learn(self, routing: Routing, nats_T: Tensor, samples: Spans) -> None:
        """Learns from the tokens of a batch, in training.

        Args:
            routing: of the tokens.
            nats_T: cross-entropy of the token after each token; without meaning at the last token of a sample.
            samples: the samples.
        """
        if not self.is_new_batch:
            return
        # Rows of zeros add nothing.
        has_next_T1 = (samples.positions + 1 < samples.counts[samples.ids])[:, None]
        nats_T1 = nats_T.float()[:, None]
        rows_TE = torch.cat([routing.normed_TD.detach().float(), torch.ones_like(nats_T1), nats_T1], 1)
        rows_TE = rows_TE.where(has_next_T1, 0)
        products = wide(rows_TE.T @ rows_TE)
        self._products = products if self._products is None else self._products + products
        if not self.in_training_step:
            self._end_regression()

    def on_step_begin(self) -> None:
        """Takes over what the last step left."""
        super().on_step_begin()
        self.weight_D.copy_(self.next_weight_D)
        self.bias.copy_(self.next_bias)

    def on_step_end(self) -> None:
        """Updates offset and regression with all batches and ranks of a step."""
        super().on_step_end()
        self._end_regression()

    @torch.no_grad()
    def _end_regression(self) -> None:
        products = self._products if self._products is not None else wide(torch.zeros_like(self.sums_EE))
        products, self._products = summed(products), None
        counts = (products[-2, -2] > 0) & products.isfinite().all()
        sums_EE = torch.where(counts, _MEMORY * self.sums_EE + products, self.sums_EE)
        total = sums_EE[-2, -2].clamp(min=1)
        mean_D, mean_y = sums_EE[-2, :-2] / total, sums_EE[-2, -1] / total
        covariance_DD = sums_EE[:-2, :-2] / total - torch.outer(mean_D, mean_D)
        shared_D = sums_EE[:-2, -1] / total - mean_D * mean_y
        ridge_DD = _RIDGE * torch.eye(len(mean_D), dtype=mean_D.dtype, device=mean_D.device)
        weight_D = torch.linalg.solve_ex(covariance_DD + ridge_DD, shared_D)[0]
        spread = (weight_D @ covariance_DD @ weight_D).clamp(min=0).sqrt()
        # Cross-entropies that are all alike predict nothing.
        usable = counts & (spread > 0) & weight_D.isfinite().all()
        weight_D = weight_D / spread
        self.sums_EE.copy_(sums_EE)
        self.next_weight_D.copy_(torch.where(usable, weight_D, self.weight_D))
        self.next_bias.copy_(torch.where(usable, -(weight_D @ mean_D), self.bias))
