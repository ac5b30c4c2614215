"""Steps in time: the tokens of a level as one sequence a sample, with the time that each stands for.

Of sequences a step is a token. Of grids, whose first axis is time, it is the mean of a moment's tokens.

Shapes: N steps, B samples, D width of the level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import ConfigError
from ...core.host import on_host
from ...core.levels import FixedGroups, GivenGroups, HierarchyConfig, extent
from ...core.pyramid import Pyramid
from ...core.spans import Spans
from ...core.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of a batch.

    Args:
        x_ND: a row a step: features, or what a head made of them.
        spans: the samples.
        edges_N2: int64 on the host: where each begins and ends, counted in level-0 steps from its sample's start.
    """

    x_ND: Tensor
    spans: Spans
    edges_N2: Tensor

    def split(self) -> list[tuple[Tensor, Tensor]]:
        """The rows and edges of each sample."""
        return list(zip(self.spans.split(self.x_ND), self.spans.split(self.edges_N2), strict=True))


def steps_of(pyramid: Pyramid, config: HierarchyConfig, level: int) -> Steps:
    """The steps of a level.

    Args:
        pyramid: the levels.
        config: of the hierarchy.
        level: place of the one that is read.
    """
    tokens = pyramid[level]
    if tokens.grids is None:
        return Steps(tokens.x, tokens.spans, runs_of(pyramid, level))
    moments = [map_.flatten(2).mean(-1).T for map_ in pyramid.maps(level)]
    spans = Spans.from_lengths([len(moment) for moment in moments], tokens.device)
    stride = 1
    for fine in config.levels[:level]:
        assert isinstance(fine.group, FixedGroups)
        stride *= extent(fine.group.stride, tokens.axes, "stride")[0]
    grids = pyramid[0].grids
    assert grids is not None
    return Steps(torch.cat(moments), spans, _grid_edges(spans, stride, [shape[0] for shape in grids]))


def check_steps(config: HierarchyConfig, level: int, axes: int, task: str) -> None:
    """Checks that a level is a sequence in time.

    Raises:
        ConfigError: its tokens are on several axes and no grid any more; names the groups.
    """
    for fine in config.levels[:level]:
        if axes > 1 and not isinstance(fine.group, FixedGroups):
            raise ConfigError(
                f"task {task} reads steps in time, and groups of level {fine.name!r} make no grid of its {axes} axes; "
                "use fixed groups below the level that is read"
            )


def most_steps(config: HierarchyConfig, level: int, tokens: Tokens) -> list[int]:
    """How many steps each sample can have at a level at most; just so many where all groups below it are fixed.

    Args:
        config: of the hierarchy.
        level: place of the level.
        tokens: raw ones, of level 0.
    """
    lengths = tokens.spans.lengths.tolist()
    if tokens.grids is not None:
        lengths = [shape[0] for shape in tokens.grids]
    for place, fine in enumerate(config.levels[:level]):
        if isinstance(fine.group, FixedGroups):
            stride = extent(fine.group.stride, tokens.axes, "stride")[0]
            lengths = [-(-length // stride) for length in lengths]
        elif isinstance(fine.group, GivenGroups) and not place and fine.group.max is None:
            lengths = Spans.from_starts(tokens.boundaries[fine.group.boundary], tokens.spans)[1].lengths.tolist()
    return lengths


@on_host
def runs_of(pyramid: Pyramid, level: int) -> Tensor:
    """(N, 2) int64: the level-0 tokens that each token of a level is made of, counted from its sample's first."""
    samples = pyramid[0].spans
    edges = torch.arange(pyramid[level].spans.total + 1)
    for name in reversed(pyramid.names[:level]):
        edges = pyramid.groups[name].host[edges]
    first_N = torch.repeat_interleave(samples.host[:-1], pyramid[level].spans.lengths)
    return torch.stack([edges[:-1] - first_N, edges[1:] - first_N], 1)


@on_host
def _grid_edges(spans: Spans, stride: int, lengths: list[int]) -> Tensor:
    """Edges of the moments of grids."""
    start_N = torch.cat([torch.arange(int(count)) for count in spans.lengths]) * stride
    last_N = torch.repeat_interleave(torch.tensor(lengths), spans.lengths)
    return torch.stack([start_N, (start_N + stride).minimum(last_N)], 1)
