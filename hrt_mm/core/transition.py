"""Transitions between levels: grouping, pooling and the map to the coarser width, and the top-down path back.

Shapes: T fine tokens, G groups, D fine width, E coarse width, C axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .levels import FixedGroups, GivenGroups, HierarchyConfig, LearnedGroups, Level, extent
from .norm import rms_norm
from .plan import Groups, LevelPlan
from .pooling import POOLINGS, Pooling, PoolingGroups, PoolingSpec
from .routing import DifferenceRouter, Router, Routing
from .segments import segment_broadcast, segment_first, segment_mean, shift_right
from .smoothing import smooth
from .spans import Spans
from .uncertainty import UncertaintyRouter

DEFAULT_GROUP_SIZE = 16
"""Positions in a given group without a maximum; longer groups are scaled to it."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """Output of a transition.

    Args:
        x_GE: tokens of the next level.
        plan: plan of the next level.
        groups: the groups that became these tokens.
        losses: weighted losses by name.
        stats: scalar statistics by name.
        confidence_T1: of learned groups, ones that carry the gradient of the routing decisions
            (:class:`~hrt_mm.core.routing.Routing`). Values unpooled to a token are multiplied by it.
        prob_G: of smoothed learned groups, the probability of the boundary at which each group starts.
        routing: of learned groups.
    """

    x_GE: Tensor
    plan: LevelPlan
    groups: Groups
    losses: dict[str, Tensor]
    stats: dict[str, Tensor]
    confidence_T1: Tensor | None = None
    prob_G: Tensor | None = None
    routing: Routing | None = None


class Transition(nn.Module):
    """Groups and pools the tokens of a level into those of the next coarser one."""

    def __init__(self, config: HierarchyConfig, index: int, axes: int, theta: float) -> None:
        super().__init__()
        fine, coarse = config.levels[index], config.levels[index + 1]
        assert fine.group is not None
        self.fine, self.coarse = fine, coarse
        self.group = fine.group
        # Groups are blocks of a grid as long as no finer level has groups of varying length.
        self.gridded = axes > 1 and all(isinstance(level.group, FixedGroups) for level in config.levels[: index + 1])
        self.group_size, self.stride = _group_size_and_stride(fine, axes, self.gridded)
        self.causal = config.causal
        spec = PoolingSpec(fine.dim, fine.heads, self.group_size, axes, theta, config.backend)
        self.pooling: Pooling = POOLINGS[fine.pool](spec)
        self.router = _router(fine.dim, fine.group) if isinstance(fine.group, LearnedGroups) else None
        self.merge = nn.Linear(self.pooling.width, coarse.dim, bias=False)
        self.alignment, self.reconstruction = config.alignment, config.reconstruction
        self.align = nn.Linear(coarse.dim, fine.dim, bias=False) if config.alignment else None
        self.rebuild = nn.Linear(coarse.dim, self.group_size * fine.dim) if config.reconstruction else None

    @property
    def inclusive(self) -> bool:
        """Whether a group's token depends on its first token only, so that the group's own tokens may see it."""
        return self.fine.pool == "select"

    def forward(self, x_TD: Tensor, plan: LevelPlan) -> Pooled:
        """Groups and pools the tokens of a level."""
        if isinstance(self.group, LearnedGroups):
            return self._routed(x_TD, plan, self.group)
        config = self.group
        groups = plan.given_groups(config) if isinstance(config, GivenGroups) else plan.fixed_groups(config)
        x_GE = self.pooled(x_TD, groups, plan.coords_TC / plan.unit_C)
        return Pooled(x_GE, self._coarser(plan, groups), groups, {}, {})

    def pooled(self, x_TD: Tensor, groups: Groups, coords_TC: Tensor) -> Tensor:
        """Pools (T, D) tokens to (G, E).

        Args:
            x_TD: tokens.
            groups: their groups.
            coords_TC: their coordinates, in units of their level.
        """
        # Poolings fold full groups into a dense batch, and most need no positions, which are thus computed on request.
        full = groups.spans.uniform == self.group_size
        view = PoolingGroups(groups.spans, lambda: groups.position_in_group_T, self.group_size, full, coords_TC)
        x_GE: Tensor = self.merge(rms_norm(self.pooling(x_TD, view)))
        return x_GE

    def _coarser(self, plan: LevelPlan, groups: Groups) -> LevelPlan:
        """Plan of the next level."""
        coords_GC = self.coordinates(plan.coords_TC, groups.spans)
        ahead = self.causal and self.inclusive
        return plan.coarser(self.coarse, groups, coords_GC, self.stride, gridded=self.gridded, ahead=ahead)

    def coordinates(self, coords_TC: Tensor, groups: Spans) -> Tensor:
        """(G, C) coordinates of groups: the mean of their tokens, or the first if only that one is pooled."""
        return (segment_first if self.inclusive else segment_mean)(coords_TC, groups)

    def _routed(self, x_TD: Tensor, plan: LevelPlan, config: LearnedGroups) -> Pooled:
        """Groups from predicted boundaries."""
        assert self.router is not None
        routing: Routing = self.router(x_TD, plan.samples)
        groups = plan.routed_groups(routing.starts_T, config)
        x_GE = self.pooled(x_TD, groups, plan.coords_TC / plan.unit_C)
        name = self.fine.name
        stats = {
            f"tokens_per_group/{name}": routing.forced.new_tensor(len(x_TD) / max(1, len(groups.spans))),
            f"forced_groups/{name}": routing.forced,
        }
        coarser = self._coarser(plan, groups)
        if not isinstance(self.router, DifferenceRouter):
            return Pooled(x_GE, coarser, groups, {}, stats, routing=routing)
        x_GE = self._with_gradient(x_GE, groups, routing)
        losses = {f"ratio/{name}": config.weight * routing.loss} if routing.loss is not None else {}
        if config.supervise is not None and config.supervise in plan.boundaries:
            truth_T = plan.boundaries[config.supervise].to(x_TD.device, non_blocking=True)
            losses[f"boundary/{name}"] = config.supervision * self.router.supervised(routing, truth_T, plan.samples)
        prob_G = segment_first(routing.prob_T[:, None], groups.spans)[:, 0] if config.smooth else None
        return Pooled(x_GE, coarser, groups, losses, stats, routing.confidence_T[:, None], prob_G, routing)

    @staticmethod
    def _with_gradient(x_GE: Tensor, groups: Groups, routing: Routing) -> Tensor:
        """Tokens of groups, with the gradient of their boundaries.

        Boundaries are hard decisions, so two straight-through terms give them a gradient. Neither changes a value, and
        neither precedes a norm, which would remove it. For tasks on coarse levels, the token of a group is interpolated
        to that of the group before, which it would be nearer to without the boundary. For tasks on fine levels, values
        unpooled to a token are scaled by the confidence of its routing decision, as in H-Net.
        """
        # The decision at the first token of a group is the one that made the group.
        doubt_G1 = segment_first(routing.doubt_T[:, None], groups.spans).to(x_GE.dtype)
        before_GE = shift_right(x_GE.detach(), groups.samples, x_GE.new_zeros(x_GE.shape[1]))
        # doubt is 0 in value, so only its gradient, the difference to the group before, takes part.
        return x_GE + doubt_G1 * (before_GE - x_GE.detach())

    def losses(self, fine_TD: Tensor, coarse_GE: Tensor, groups: Groups) -> dict[str, Tensor]:
        """Weighted alignment and reconstruction losses between the two levels.

        The fine level is the target and gets no gradient; otherwise both levels could collapse to a constant.

        Args:
            fine_TD: final tokens of the fine level.
            coarse_GE: final tokens of the coarse level.
            groups: the groups between them.
        """
        losses: dict[str, Tensor] = {}
        name = self.fine.name
        target_TD = rms_norm(fine_TD.detach().float())
        normed_GE = rms_norm(coarse_GE)
        if self.align is not None:
            mean_GD = segment_mean(target_TD, groups.spans)
            similarity_G = F.cosine_similarity(self.align(normed_GE).float(), mean_GD, dim=-1)
            losses[f"alignment/{name}"] = self.alignment * (1 - similarity_G).sum() / max(1, len(similarity_G))
        if self.rebuild is not None:
            # (G, K * D) to (G * K, D): a row for each position of every group, from which the tokens select theirs.
            rows = self.rebuild(normed_GE).view(-1, target_TD.shape[1]).float()
            rebuilt_TD = rows.index_select(0, groups.spans.ids * self.group_size + groups.position_in_group_T)
            error = (rebuilt_TD - target_TD).square().sum() / max(1, target_TD.numel())
            losses[f"reconstruction/{name}"] = self.reconstruction * error
        return losses


class TopDown(nn.Module):
    """Unpools a coarser level: norm, linear map to the fine width, and a row for each token of a group.

    In causal mode a token gets the group before its own, except where a group's token depends on its first token only.
    """

    def __init__(self, transition: Transition) -> None:
        super().__init__()
        fine, coarse = transition.fine, transition.coarse
        self.map = nn.Linear(coarse.dim, fine.dim, bias=False)
        self.causal = transition.causal
        delay = self.causal and not transition.inclusive
        self.lead = nn.Parameter(torch.empty(fine.dim)) if delay else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitializes the parameters that this module owns directly."""
        if self.lead is not None:
            # Tokens of the first group start as if nothing came down, like all tokens of a model without this path.
            nn.init.zeros_(self.lead)

    def forward(self, x_GE: Tensor, groups: Groups, pooling: Pooling, prob_G: Tensor | None = None) -> Tensor:
        """Maps (G, E) to (T, D).

        Args:
            x_GE: the coarse tokens.
            groups: the groups that they were pooled from.
            pooling: the pooling of the transition.
            prob_G: of smoothed groups, the probability of the boundary at which each group starts.
        """
        x_GD = self.project_groups(x_GE, groups.samples, prob_G)
        if self.lead is not None:
            # Without this delay a token would see its own group, and through it later tokens.
            x_GD = shift_right(x_GD, groups.samples, self.lead)
        # Some poolings scale by the length of the group, which is not known yet in causal mode.
        return segment_broadcast(x_GD, groups.spans) if self.causal else pooling.unpool(x_GD, groups.spans)

    def project_groups(self, x_GE: Tensor, samples: Spans, prob_G: Tensor | None) -> Tensor:
        """Maps (G, E) to (G, D), and smooths the result if boundary probabilities are given."""
        x_GD = self.project(x_GE)
        return x_GD if prob_G is None else smooth(x_GD, prob_G, samples)

    def project(self, x_GE: Tensor) -> Tensor:
        """Norm and linear map, (G, E) to (G, D)."""
        x_GD: Tensor = self.map(rms_norm(x_GE))
        return x_GD


def _router(dim: int, config: LearnedGroups) -> Router:
    return UncertaintyRouter(dim, config) if config.signal == "uncertainty" else DifferenceRouter(dim, config)


def _group_size_and_stride(level: Level, axes: int, gridded: bool) -> tuple[int, tuple[float, ...]]:
    """Number of positions in a group, and typical tokens per group along each axis."""
    group = level.group
    if isinstance(group, FixedGroups):
        if isinstance(group.stride, int):
            sizes = (group.stride,) * axes
        else:
            sizes = extent(group.stride, axes, f"stride of level {level.name!r}")
        # Without a grid there is one axis of tokens, and the first stride is that along it.
        return math.prod(sizes) if gridded else sizes[0], tuple(float(size) for size in sizes)
    if isinstance(group, GivenGroups):
        typical = group.typical
        return group.max or DEFAULT_GROUP_SIZE, typical if isinstance(typical, tuple) else (typical,) * axes
    assert isinstance(group, LearnedGroups)
    return group.max, (group.target,) * axes
