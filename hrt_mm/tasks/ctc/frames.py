"""Frames: the tokens of a level as one sequence per sample, with their times.

In a sequence each token is a frame. In a grid, whose first axis is time, a frame is the mean of all tokens of one time.

Shapes: N frames, B samples, D width of the level.
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
class Frames:
    """The frames of a batch.

    Args:
        x_ND: features of each frame, or the output of a head.
        spans: the samples.
        edges_N2: int64 on the host: start and end of each frame, in level-0 tokens from its sample's start.
    """

    x_ND: Tensor
    spans: Spans
    edges_N2: Tensor

    def split(self) -> list[tuple[Tensor, Tensor]]:
        """The rows and edges of each sample."""
        return list(zip(self.spans.split(self.x_ND), self.spans.split(self.edges_N2), strict=True))


def frames_of(pyramid: Pyramid, config: HierarchyConfig, level: int) -> Frames:
    """The frames of a level.

    Args:
        pyramid: the levels.
        config: of the hierarchy.
        level: index of the level.
    """
    tokens = pyramid[level]
    if tokens.grids is None:
        return Frames(tokens.x, tokens.spans, token_ranges(pyramid, level))
    frames = [map_.flatten(2).mean(-1).T for map_ in pyramid.maps(level)]
    spans = Spans.from_lengths([len(frames_TD) for frames_TD in frames], tokens.device)
    stride = 1
    for fine in config.levels[:level]:
        assert isinstance(fine.group, FixedGroups)
        stride *= extent(fine.group.stride, tokens.axes, "stride")[0]
    grids = pyramid[0].grids
    assert grids is not None
    return Frames(torch.cat(frames), spans, _grid_edges(spans, stride, [shape[0] for shape in grids]))


def check_sequence(config: HierarchyConfig, level: int, axes: int, task: str) -> None:
    """Checks that the tokens of a level are a sequence in time.

    Raises:
        ConfigError: the tokens have several axes and are no longer a grid; names the groups.
    """
    for fine in config.levels[:level]:
        if axes > 1 and not isinstance(fine.group, FixedGroups):
            raise ConfigError(
                f"task {task} needs a sequence of frames, and the groups of level {fine.name!r} make no grid of its "
                f"{axes} axes; "
                "use fixed groups below the level that is read"
            )


def max_frames(config: HierarchyConfig, level: int, tokens: Tokens) -> list[int]:
    """Most frames that each sample can have at a level; the exact number where all groups below it are fixed.

    Args:
        config: of the hierarchy.
        level: index of the level.
        tokens: raw tokens of level 0.
    """
    lengths = tokens.spans.lengths.tolist()
    if tokens.grids is not None:
        lengths = [shape[0] for shape in tokens.grids]
    for index, fine in enumerate(config.levels[:level]):
        if isinstance(fine.group, FixedGroups):
            stride = extent(fine.group.stride, tokens.axes, "stride")[0]
            lengths = [-(-length // stride) for length in lengths]
        elif isinstance(fine.group, GivenGroups) and index == 0 and fine.group.max is None:
            lengths = Spans.from_starts(tokens.boundaries[fine.group.boundary], tokens.spans)[1].lengths.tolist()
    return lengths


@on_host
def token_ranges(pyramid: Pyramid, level: int) -> Tensor:
    """(N, 2) int64: first and end of the level-0 tokens under each token of a level, counted within its sample."""
    samples = pyramid[0].spans
    edges = torch.arange(pyramid[level].spans.total + 1)
    for name in reversed(pyramid.names[:level]):
        edges = pyramid.groups[name].host[edges]
    first_N = torch.repeat_interleave(samples.host[:-1], pyramid[level].spans.lengths)
    return torch.stack([edges[:-1] - first_N, edges[1:] - first_N], 1)


@on_host
def _grid_edges(spans: Spans, stride: int, lengths: list[int]) -> Tensor:
    """Edges of the frames of grids."""
    start_N = torch.cat([torch.arange(int(count)) for count in spans.lengths]) * stride
    last_N = torch.repeat_interleave(torch.tensor(lengths), spans.lengths)
    return torch.stack([start_N, (start_N + stride).minimum(last_N)], 1)
