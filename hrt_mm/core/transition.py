"""From one level to the next and back: grouping, pooling, the merge to the coarser width, and the way down.

Shapes: T fine tokens, G groups, D fine width, E coarse width, K positions in a group.
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
from .routing import Router
from .segments import segment_broadcast, segment_first, segment_mean, shift_right
from .smoothing import smooth
from .spans import Spans

DEFAULT_GROUP_SIZE = 16


@dataclass(frozen=True, eq=False)
class Pooled:
    """The next level's tokens and plan, with what led there.

    Args:
        x_GE: tokens of the next level.
        plan: its plan.
        groups: the groups that they were.
        losses: weighted, by name.
        stats: measured scalars by name.
        confidence_T1: of learned groups, 1 in value: what a token gets back from its group is times it.
        prob_G: of learned groups that are smoothed, the probability of the boundary that each starts at.
    """

    x_GE: Tensor
    plan: LevelPlan
    groups: Groups
    losses: dict[str, Tensor]
    stats: dict[str, Tensor]
    confidence_T1: Tensor | None = None
    prob_G: Tensor | None = None


class Transition(nn.Module):
    """Leads from a level to the next coarser one."""

    def __init__(self, config: HierarchyConfig, index: int, axes: int, theta: float) -> None:
        super().__init__()
        fine, coarse = config.levels[index], config.levels[index + 1]
        assert fine.group is not None
        self.fine, self.coarse = fine, coarse
        self.group = fine.group
        self.gridded = axes > 1 and all(isinstance(level.group, FixedGroups) for level in config.levels[: index + 1])
        self.group_size, self.stride = _usual_size(fine, axes, self.gridded)
        self.causal = config.causal
        site = PoolingSpec(fine.dim, fine.heads, self.group_size, axes, theta, config.backend)
        self.pooling: Pooling = POOLINGS[fine.pool](site)
        self.router = Router(fine.dim, fine.group) if isinstance(fine.group, LearnedGroups) else None
        self.merge = nn.Linear(self.pooling.width, coarse.dim, bias=False)
        self.alignment, self.reconstruction = config.alignment, config.reconstruction
        self.align = nn.Linear(coarse.dim, fine.dim, bias=False) if config.alignment else None
        self.rebuild = nn.Linear(coarse.dim, self.group_size * fine.dim) if config.reconstruction else None

    @property
    def inclusive(self) -> bool:
        """Whether a group's token is made from the group's first token alone, so that its own tokens may see it."""
        return self.fine.pool == "select"

    def forward(self, x_TD: Tensor, plan: LevelPlan) -> Pooled:
        """Groups and pools the tokens of a level."""
        if isinstance(self.group, LearnedGroups):
            return self._routed(x_TD, plan, self.group)
        config = self.group
        groups = plan.given_groups(config) if isinstance(config, GivenGroups) else plan.fixed_groups(config)
        x_GE = self.pooled(x_TD, groups, plan.coords_TC / plan.unit_C)
        return Pooled(x_GE, self._coarser(plan, groups), groups, {}, {})

    def pooled(self, x_TD: Tensor, groups: Groups, places_TC: Tensor) -> Tensor:
        """(T, D) tokens to (G, E), one for each of their groups.

        Args:
            x_TD: tokens.
            groups: their groups.
            places_TC: their positions, in steps of their level.
        """
        full = groups.spans.uniform == self.group_size
        view = PoolingGroups(groups.spans, lambda: groups.position_in_group_T, self.group_size, full, places_TC)
        x_GE: Tensor = self.merge(rms_norm(self.pooling(x_TD, view)))
        return x_GE

    def _coarser(self, plan: LevelPlan, groups: Groups) -> LevelPlan:
        """The next level's plan."""
        coords_GC = self.coordinates(plan.coords_TC, groups.spans)
        ahead = self.causal and self.inclusive
        return plan.coarser(self.coarse, groups, coords_GC, self.stride, gridded=self.gridded, ahead=ahead)

    def coordinates(self, coords_TC: Tensor, groups: Spans) -> Tensor:
        """(G, C) where the tokens of groups lie: in the middle, or if made from the first token alone, at that one."""
        return (segment_first if self.inclusive else segment_mean)(coords_TC, groups)

    def _routed(self, x_TD: Tensor, plan: LevelPlan, config: LearnedGroups) -> Pooled:
        """Groups that the model chooses.

        A boundary is a hard choice, so the gradient goes around it, twice. A group's token is weighed against the one
        before it, which it would come near to if the boundary were not there: that serves tasks on coarse levels. And
        what a token gets back is times the confidence in the choice there, as in H-Net. Neither changes a value, and
        neither stands before a norm, which would take it out again.
        """
        assert self.router is not None
        routing = self.router(x_TD, plan.samples)
        groups = plan.routed_groups(routing.starts_T, config)
        x_GE = self.pooled(x_TD, groups, plan.coords_TC / plan.unit_C)
        doubt_G1 = segment_first(routing.doubt_T[:, None], groups.spans).to(x_GE.dtype)
        before_GE = shift_right(x_GE.detach(), groups.samples, x_GE.new_zeros(x_GE.shape[1]))
        x_GE = x_GE + doubt_G1 * (before_GE - x_GE.detach())
        name = self.fine.name
        losses = {f"ratio/{name}": config.weight * routing.loss} if config.weight else {}
        if config.supervise is not None and config.supervise in plan.boundaries:
            truth_T = plan.boundaries[config.supervise].to(x_TD.device, non_blocking=True)
            losses[f"boundary/{name}"] = config.supervision * self.router.supervised(routing, truth_T, plan.samples)
        stats = {
            f"tokens_per_group/{name}": routing.loss.new_tensor(len(x_TD) / max(1, len(groups.spans))),
            f"forced_groups/{name}": routing.forced,
        }
        prob_G = segment_first(routing.prob_T[:, None], groups.spans)[:, 0] if config.smooth else None
        confidence_T1 = routing.confidence_T[:, None]
        return Pooled(x_GE, self._coarser(plan, groups), groups, losses, stats, confidence_T1, prob_G)

    def losses(self, fine_TD: Tensor, coarse_GE: Tensor, groups: Groups) -> dict[str, Tensor]:
        """The losses that answer what pooling loses and how levels drift, weighted.

        The fine level is the target and gets no gradient, else both could fall to a constant.

        Args:
            fine_TD: final tokens of the fine level.
            coarse_GE: final tokens of the coarse level.
            groups: the groups between them.
        """
        found: dict[str, Tensor] = {}
        name = self.fine.name
        target_TD = rms_norm(fine_TD.detach().float())
        source_GE = rms_norm(coarse_GE)
        if self.align is not None:
            mean_GD = segment_mean(target_TD, groups.spans)
            like_G = F.cosine_similarity(self.align(source_GE).float(), mean_GD, dim=-1)
            found[f"alignment/{name}"] = self.alignment * (1 - like_G).sum() / max(1, len(like_G))
        if self.rebuild is not None:
            places = self.rebuild(source_GE).view(-1, target_TD.shape[1]).float()
            guess_TD = places.index_select(0, groups.spans.ids * self.group_size + groups.position_in_group_T)
            error = (guess_TD - target_TD).square().sum() / max(1, target_TD.numel())
            found[f"reconstruction/{name}"] = self.reconstruction * error
        return found


class TopDown(nn.Module):
    """Brings a coarser level back: norm, map to the fine width, and one row for each token of the group.

    In causal mode a token gets the group before its own, unless the group's token is made from its first token alone.
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
        """Sets what is its own to where it starts."""
        if self.lead is not None:
            nn.init.zeros_(self.lead)

    def forward(self, x_GE: Tensor, groups: Groups, pooling: Pooling, prob_G: Tensor | None = None) -> Tensor:
        """(G, E) to (T, D).

        Args:
            x_GE: the coarse tokens.
            groups: that they came from.
            pooling: that made them.
            prob_G: of groups that are smoothed, the probability of the boundary that each starts at.
        """
        x_GD = self.project_groups(x_GE, groups.samples, prob_G)
        if self.lead is not None:
            x_GD = shift_right(x_GD, groups.samples, self.lead)
        # How long a token's own group will be is not known yet in causal mode, and some poolings unpool by length.
        return segment_broadcast(x_GD, groups.spans) if self.causal else pooling.unpool(x_GD, groups.spans)

    def project_groups(self, x_GE: Tensor, samples: Spans, prob_G: Tensor | None) -> Tensor:
        """What comes back from each group, (G, E) to (G, D), smoothed where there are chances."""
        x_GD = self.project(x_GE)
        return x_GD if prob_G is None else smooth(x_GD, prob_G, samples)

    def project(self, x_GE: Tensor) -> Tensor:
        """(G, E) to (G, D)."""
        x_GD: Tensor = self.map(rms_norm(x_GE))
        return x_GD


def _usual_size(level: Level, axes: int, gridded: bool) -> tuple[int, tuple[float, ...]]:
    """Taps of a group, and tokens a group along each axis."""
    group = level.group
    if isinstance(group, FixedGroups):
        if isinstance(group.stride, int):
            sizes = (group.stride,) * axes
        else:
            sizes = extent(group.stride, axes, f"stride of level {level.name!r}")
        return math.prod(sizes) if gridded else sizes[0], tuple(float(size) for size in sizes)
    if isinstance(group, GivenGroups):
        typical = group.typical
        return group.max or DEFAULT_GROUP_SIZE, typical if isinstance(typical, tuple) else (typical,) * axes
    assert isinstance(group, LearnedGroups)
    return group.max, (group.target,) * axes
