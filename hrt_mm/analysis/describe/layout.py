"""The levels of a sample laid out without running the model: how many tokens each has, and how they are cut.

Shapes: T tokens of a level, G groups, C axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...core.errors import ConfigError
from ...core.grids import nested_coords
from ...core.hierarchy import Hierarchy
from ...core.initial_weights import weights_replaced
from ...core.levels import FixedGroups, GivenGroups, HierarchyConfig, LearnedGroups
from ...core.plan import Groups, LevelPlan
from ...core.segments import segment_mean
from ...core.spans import Spans
from ...core.tokens import Tokens
from ...core.transition import Transition


@dataclass(frozen=True, eq=False)
class Laid:
    """A level of a sample.

    Args:
        plan: its partitions.
        groups: how its tokens become the next level's; ``None`` on the last one.
    """

    plan: LevelPlan
    groups: Groups | None

    @property
    def tokens(self) -> int:
        """Tokens of the level."""
        return self.plan.samples.total


def on_meta(config: HierarchyConfig, axes: int) -> Hierarchy:
    """The hierarchy without memory for its weights."""
    with torch.device("meta"), weights_replaced():
        return Hierarchy(config, axes)


def sample_of(shape: tuple[int, ...], hierarchy: Hierarchy) -> Tokens:
    """One sample without features.

    Args:
        shape: level-0 tokens along each axis.
        hierarchy: gives the axes and the order of grids.

    Raises:
        ConfigError: as many sizes were given as there are not axes, or a size is below 1.
    """
    if len(shape) != hierarchy.axes or min(shape) < 1:
        raise ConfigError(
            f"a sample of shape {'x'.join(map(str, shape))} does not fit the modality's {hierarchy.axes} axes; "
            f"give {hierarchy.axes} sizes of 1 or more"
        )
    total = math.prod(shape)
    gridded = len(shape) > 1
    coords_TC = nested_coords(shape, hierarchy.blocks) if gridded else torch.arange(total)[:, None].float()
    return Tokens(torch.empty(total, 0), Spans.from_lengths([total]), coords_TC, grids=(shape,) if gridded else None)


def lay_out(hierarchy: Hierarchy, tokens: Tokens) -> list[Laid]:
    """The levels of a batch, as the hierarchy would make them.

    Learned groups are taken to have the size that their loss pulls towards. Given ones are the tokens' own, and where
    the tokens carry no such boundary, of their ``typical`` size.
    """
    plan = LevelPlan.of(tokens, hierarchy.config.levels[0], hierarchy.blocks)
    levels = []
    for transition in hierarchy.transitions:
        groups = _groups(plan, transition)
        levels.append(Laid(plan, groups))
        coords_GC = segment_mean(plan.coords_TC, groups.spans)
        plan = plan.coarser(transition.coarse, groups, coords_GC, transition.stride, gridded=transition.gridded)
    return [*levels, Laid(plan, None)]


def _groups(plan: LevelPlan, transition: Transition) -> Groups:
    group = transition.group
    if isinstance(group, FixedGroups):
        return plan.fixed_groups(group)
    if isinstance(group, LearnedGroups):
        return _alike(plan, group.target, group.max)
    assert isinstance(group, GivenGroups)
    if group.boundary in plan.boundaries:
        return plan.given_groups(group)
    return _alike(plan, group.typical_tokens, group.max or math.inf)


def _alike(plan: LevelPlan, size: float, longest: float) -> Groups:
    spans = plan.samples.cut(max(1, round(min(size, longest))))
    return Groups(spans, plan.samples.coarsen(spans), spans.max_seqlen)
