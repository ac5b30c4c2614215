"""Learned groups: a router predicts boundaries between neighbours, and an offset controls how many there are.

The boundaries are where neighbours differ (dynamic chunking of H-Net, arXiv 2507.07955), or those of
:mod:`~hrt_mm.core.uncertainty`.

Shapes: T tokens, D width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .devices import wide
from .host import on_host
from .levels import LearnedGroups
from .linear import InitLinear
from .norm import rms_norm
from .per_step import PerStep
from .ranks import summed
from .segments import limit_group_length
from .spans import Spans

_WARMUP_TARGET = 2.0
"""Tokens per group at the start of the warm-up."""
_EPS = 1e-4
"""Clamps probabilities away from 0 and 1, so that the binary cross-entropy stays finite."""
_RATE = 0.05
"""Least weight of a training step in the offset. Small batches differ much in how many boundaries they need."""
_MOST_ODDS = math.log(1 / _EPS)
"""Largest offset to either side."""
_EDGES = 2048
"""Log-odds between these at which boundaries are counted."""


@dataclass(frozen=True, eq=False)
class Routing:
    """Boundaries of a batch.

    Args:
        starts_T: bool, true where a group starts, including first tokens and groups split at the maximum length.
        prob_T: boundary probabilities; 1 at first tokens.
        free_prob_T: the same before the offset that controls the number of groups.
        confidence_T: ones, with the gradient of the probability of the decision made at each token (a straight-through
            estimator, as in H-Net).
        doubt_T: zeros, with the gradient of the probability that there is no boundary at the token.
        loss: the ratio loss, scalar; ``None`` where boundaries have no gradient.
        forced: fraction of the starts that the maximum length caused, scalar.
        normed_TD: the normalized tokens.
    """

    starts_T: Tensor
    prob_T: Tensor
    free_prob_T: Tensor
    confidence_T: Tensor
    doubt_T: Tensor
    loss: Tensor | None
    forced: Tensor
    normed_TD: Tensor


class Router(PerStep, ABC):
    """Predicts a boundary before each token from it and the token before it, so routing is causal.

    The number of groups is controlled: an offset is subtracted from the log-odds of all boundaries, at which the last
    training steps would have had ``target`` tokens a group. It is a buffer that steps change after they have used it,
    so a decision depends on no other token of its batch.

    Args:
        config: of the groups.
        offset: the first one; ``None`` for no control.
    """

    first: ClassVar[float]
    """Score of the first token of a sample, which makes its probability 1."""
    batches: Tensor
    offset: Tensor
    next_offset: Tensor
    steps: Tensor

    def __init__(self, config: LearnedGroups, offset: float | None) -> None:
        super().__init__()
        self.target, self.max_length, self.warmup = config.target, config.max, config.warmup
        if self.warmup:
            self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.controlled, self.first_offset = offset is not None, offset or 0.0
        if self.controlled:
            self.register_buffer("offset", torch.tensor(self.first_offset))
            # What the last step left, until the next one begins: activations that are recomputed for the gradient see
            # the offset that the first ones saw.
            self.register_buffer("next_offset", torch.tensor(self.first_offset))
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._sums: Tensor | None = None
        """(E + 2,) of the step so far: boundaries with log-odds up to each of E edges, tokens, and groups that the
        maximum length caused."""

    def reset_parameters(self) -> None:
        """Restarts the warm-up and the control."""
        if self.warmup:
            self.batches.zero_()
        if self.controlled:
            self.offset.fill_(self.first_offset)
            self.next_offset.fill_(self.first_offset)
            self.steps.zero_()

    @abstractmethod
    def score(self, before_TD: Tensor, here_TD: Tensor) -> Tensor:
        """(T,) scores of a boundary between normalized neighbours."""

    @abstractmethod
    def log_odds(self, score_T: Tensor) -> Tensor:
        """(T,) log-odds of boundaries by their scores, before the offset."""

    @abstractmethod
    def probability(self, score_T: Tensor) -> Tensor:
        """(T,) probabilities of boundaries by their scores, after the offset."""

    def between(self, before_TD: Tensor, here_TD: Tensor) -> Tensor:
        """(T,) probabilities of a boundary between normalized neighbours."""
        return self.probability(self.score(before_TD, here_TD))

    def forward(self, x_TD: Tensor, samples: Spans) -> Routing:
        """Predicts the boundaries of packed samples."""
        is_new = self.is_new_batch
        if is_new and not self.in_training_step:
            self.on_step_begin()
        normed_TD = rms_norm(x_TD)
        # Pairs are compared across samples too; the first token of a sample then gets its own score.
        score_T = F.pad(self.score(normed_TD[:-1], normed_TD[1:]), (1, 0), value=self.first)
        score_T = torch.where(self._is_first(samples), self.first, score_T)
        prob_T = self.probability(score_T)
        predicted_T = prob_T > 0.5
        # Groups that would grow too long are split. The ratio loss below counts the router's own predictions only.
        # The first token of a sample has probability 1, hence is a start, as the limit needs.
        starts_T = limit_group_length(predicted_T, self.max_length)
        if is_new and self.controlled:
            self._count(score_T, starts_T & ~predicted_T)
            if not self.in_training_step:
                self._end_count()
        decision_prob_T = torch.where(starts_T, prob_T, 1 - prob_T)
        return Routing(
            starts_T,
            prob_T,
            self._free(score_T),
            1 + (decision_prob_T - decision_prob_T.detach()),
            prob_T.detach() - prob_T,
            self._loss(predicted_T, prob_T),
            (starts_T & ~predicted_T).float().sum() / starts_T.float().sum().clamp(min=1),
            normed_TD,
        )

    def _free(self, score_T: Tensor) -> Tensor:
        """(T,) probabilities without the offset."""
        return self.log_odds(score_T).sigmoid()

    def _loss(self, predicted_T: Tensor, prob_T: Tensor) -> Tensor | None:
        """The ratio loss."""
        return None

    def on_step_begin(self) -> None:
        """Advances the warm-up, and takes over the offset that the last step left."""
        if self.warmup:
            self.batches += 1
        if self.controlled:
            self.offset.copy_(self.next_offset)

    def on_step_end(self) -> None:
        """Updates the offset with all batches and ranks of a step."""
        if self.controlled:
            self._end_count()

    @torch.no_grad()
    def _count(self, score_T: Tensor, forced_T: Tensor) -> None:
        """Adds a batch to what the offset is computed from: counts, so that a step may be divided in any way."""
        odds_T = self.log_odds(score_T.detach()).float()
        edges = torch.linspace(-_MOST_ODDS, _MOST_ODDS, _EDGES, dtype=odds_T.dtype, device=odds_T.device)
        within = torch.searchsorted(odds_T.sort().values, edges, right=True)
        sums = wide(torch.cat([within, within.new_tensor([len(odds_T)]), forced_T.sum()[None]]))
        self._sums = sums if self._sums is None else self._sums + sums

    def _end_count(self) -> None:
        sums = self._sums if self._sums is not None else wide(self.offset.new_zeros(_EDGES + 2))
        sums, self._sums = summed(sums), None
        tokens, forced = sums[-2:]
        # Groups that were split at the maximum length count too, so that fewer boundaries are left to the router.
        within = tokens - (tokens / self.current_target() - forced)
        edges = torch.linspace(-_MOST_ODDS, _MOST_ODDS, _EDGES, dtype=sums.dtype, device=sums.device)
        above = torch.searchsorted(sums[:-2].contiguous(), within).clamp(1, _EDGES - 1)
        pair = torch.stack([above - 1, above])
        (low, high), counts = edges[pair], sums[:-2][pair]
        part = ((within - counts[0]) / (counts[1] - counts[0]).clamp(min=1)).clamp(0, 1)
        needed = (low + part * (high - low)).to(self.offset)
        # The first steps change the router most, so they are averaged over half of the steps so far.
        rate = (2 / (self.steps + 2)).clamp(min=_RATE).to(self.offset)
        self.next_offset.copy_(torch.where(tokens > 0, self.offset.lerp(needed, rate), self.offset))
        self.steps += (tokens > 0).to(self.steps)

    @on_host
    def _is_first(self, samples: Spans) -> Tensor:
        mask_T = torch.zeros(samples.total, dtype=torch.bool)
        first = samples.host[:-1]
        mask_T[first[first < samples.total]] = True
        return mask_T.to(samples.device, non_blocking=True)

    def current_target(self) -> float | Tensor:
        """Target tokens per group at this point of the warm-up."""
        if not self.warmup or self.target <= _WARMUP_TARGET:
            return self.target
        return _WARMUP_TARGET + (self.target - _WARMUP_TARGET) * (self.batches / self.warmup).clamp(max=1)


class DifferenceRouter(Router):
    """A boundary is where a token is unlike the one before it (H-Net eq. 4), and training tells what counts.

    With ``weight`` 0 there is no offset: the number of groups is left to supervision.
    """

    first = -1.0

    def __init__(self, dim: int, config: LearnedGroups) -> None:
        super().__init__(config, 0.0 if config.weight else None)
        # Identities at first: boundaries are where the tokens themselves differ (H-Net).
        self.before = InitLinear(dim, dim, nn.init.eye_)
        self.here = InitLinear(dim, dim, nn.init.eye_)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Checkpoints from before the control have no offset, which is an offset of zero.
        if self.controlled and f"{prefix}here.weight" in state_dict:
            for name in ("offset", "next_offset", "steps"):
                state_dict.setdefault(prefix + name, torch.zeros_like(self.get_buffer(name)))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def score(self, before_TD: Tensor, here_TD: Tensor) -> Tensor:
        """(T,) cosine similarity of normalized neighbours after a linear map of each, in float32 or wider."""
        before_TD, here_TD = self.before(before_TD), self.here(here_TD)
        # Half precision would round the products and sums of a whole row.
        dtype = torch.promote_types(before_TD.dtype, torch.float32)
        return F.cosine_similarity(before_TD.to(dtype), here_TD.to(dtype), dim=-1)

    def log_odds(self, score_T: Tensor) -> Tensor:
        """(T,) log-odds of (1 - similarity) / 2."""
        return torch.log1p(-score_T) - torch.log1p(score_T)

    def probability(self, score_T: Tensor) -> Tensor:
        """(T,) probabilities (1 - similarity) / 2, with the offset subtracted from their log-odds."""
        if not self.controlled:
            return self._free(score_T)
        # Without logarithms, whose gradient is infinite between equal neighbours.
        odds_T = 1 - score_T
        return odds_T / (odds_T + (1 + score_T) * self.offset.exp().to(score_T.dtype))

    def _free(self, score_T: Tensor) -> Tensor:
        return (1 - score_T) / 2

    def supervised(self, routing: Routing, truth_T: Tensor, samples: Spans) -> Tensor:
        """Mean binary cross-entropy between predicted and true boundaries, over all tokens but the first of a sample.

        Args:
            routing: of the tokens.
            truth_T: (T,) bool, where groups should start.
            samples: the samples.
        """
        counted_T = ~self._is_first(samples)
        # Not after the offset, which would follow what is learned, and what is learned would follow the offset.
        prob_T = routing.free_prob_T.float().clamp(_EPS, 1 - _EPS)
        loss_T = F.binary_cross_entropy(prob_T, truth_T.float(), reduction="none")
        return (loss_T * counted_T).sum() / counted_T.sum().clamp(min=1)

    def _loss(self, predicted_T: Tensor, prob_T: Tensor) -> Tensor | None:
        return self._ratio_loss(predicted_T, prob_T) if self.controlled else None

    def _ratio_loss(self, predicted_T: Tensor, prob_T: Tensor) -> Tensor:
        """H-Net eq. 10. Its minimum, 1, is where a fraction 1/target of the tokens starts a group."""
        if not len(prob_T):
            return prob_T.sum()
        # The fraction of boundaries has no gradient; the mean probability, which follows it, carries it.
        fraction, mean, n = predicted_T.float().mean(), prob_T.mean(), self.current_target()
        return n / (n - 1) * ((n - 1) * fraction * mean + (1 - fraction) * (1 - mean))
