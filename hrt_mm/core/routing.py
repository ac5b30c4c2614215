"""Learned groups: the model scores a boundary between neighbours (dynamic chunking, H-Net, arXiv 2507.07955).

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

_FIRST_TARGET = 2.0
"""Tokens a group where a warm-up starts."""
_SURE = 1e-4
"""A cosine reaches certainty, whose logarithm has no end."""


@dataclass(frozen=True, eq=False)
class Routing:
    """Boundaries of a batch.

    Args:
        starts_T: bool, true where a group starts; caps and first tokens included.
        prob_T: probability of a boundary; 1 at first tokens.
        confidence_T: 1 in value; its gradient raises the probability of the decision that was taken.
        doubt_T: 0 in value; its gradient raises the probability that the group before goes on at this token.
        loss: ratio loss, towards the target tokens a group; scalar.
        forced: share of the starts that the cap set, scalar.
    """

    starts_T: Tensor
    prob_T: Tensor
    confidence_T: Tensor
    doubt_T: Tensor
    loss: Tensor
    forced: Tensor


class Router(PerStep):
    """Scores a boundary before each token by how little it resembles the one before.

    The decision at a token uses that token and the one before alone, so it is causal.
    """

    batches: Tensor

    def __init__(self, dim: int, config: LearnedGroups) -> None:
        super().__init__()
        self.target, self.longest, self.warmup = config.target, config.max, config.warmup
        if self.warmup:
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.before = InitLinear(dim, dim, nn.init.eye_)
        self.here = InitLinear(dim, dim, nn.init.eye_)

    def reset_parameters(self) -> None:
        """Begins the warm-up again."""
        if self.warmup:
            self.batches.zero_()

    def forward(self, x_TD: Tensor, samples: Spans) -> Routing:
        """Boundaries of packed samples."""
        if self.is_new_batch and not self.in_training_step:
            self.on_step_begin()
        normed_TD = rms_norm(x_TD)
        first_T = self._first(samples)
        prob_T = torch.where(first_T, 1.0, F.pad(self.between(normed_TD[:-1], normed_TD[1:]), (1, 0), value=1.0))
        chosen_T = prob_T > 0.5
        starts_T = limit_group_length(chosen_T, self.longest)
        confidence_T = torch.where(starts_T, prob_T, 1 - prob_T)
        return Routing(
            starts_T,
            prob_T,
            1 + (confidence_T - confidence_T.detach()),
            prob_T.detach() - prob_T,
            self._ratio_loss(chosen_T, prob_T),
            (starts_T & ~chosen_T).float().sum() / starts_T.float().sum().clamp(min=1),
        )

    def on_step_begin(self) -> None:
        """The warm-up moves on."""
        if self.warmup:
            self.batches += 1

    def between(self, before_TD: Tensor, here_TD: Tensor) -> Tensor:
        """(T,) probability of a boundary between pairs of neighbours, normed."""
        before_TD, here_TD = self.before(before_TD), self.here(here_TD)
        wide = torch.promote_types(before_TD.dtype, torch.float32)
        like_T = F.cosine_similarity(before_TD.to(wide), here_TD.to(wide), dim=-1)
        return (1 - like_T) / 2

    def supervised(self, routing: Routing, truth_T: Tensor, samples: Spans) -> Tensor:
        """The cross-entropy between the chances of boundaries and true ones, a mean over tokens but the first ones.

        Args:
            routing: of the tokens.
            truth_T: (T,) bool, where groups should start.
            samples: the samples.
        """
        free_T = ~self._first(samples)
        prob_T = routing.prob_T.float().clamp(_SURE, 1 - _SURE)
        nats_T = F.binary_cross_entropy(prob_T, truth_T.float(), reduction="none")
        return (nats_T * free_T).sum() / free_T.sum().clamp(min=1)

    @on_host
    def _first(self, samples: Spans) -> Tensor:
        mask_T = torch.zeros(samples.total, dtype=torch.bool)
        first = samples.host[:-1]
        mask_T[first[first < samples.total]] = True
        return mask_T.to(samples.device, non_blocking=True)

    def current_target(self) -> float | Tensor:
        """Tokens a group that the ratio loss pulls towards now."""
        if not self.warmup or self.target <= _FIRST_TARGET:
            return self.target
        return _FIRST_TARGET + (self.target - _FIRST_TARGET) * (self.batches / self.warmup).clamp(max=1)

    def _ratio_loss(self, chosen_T: Tensor, prob_T: Tensor) -> Tensor:
        """Least, 1, where a share 1/target of the tokens starts a group; equation 10 of the paper."""
        if not len(prob_T):
            return prob_T.sum()
        share, mean, n = chosen_T.float().mean(), prob_T.mean(), self.current_target()
        return n / (n - 1) * ((n - 1) * share * mean + (1 - share) * (1 - mean))
