"""Where the tokens of a level lie in a sample.

Shapes: N pieces, D width, A axes (time; or rows and columns of an image), T level-0 tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.levels import HierarchyConfig
from ..core.pyramid import Pyramid
from ..tasks.ctc import frames_of, token_ranges


@torch.no_grad()
def located(pyramid: Pyramid, config: HierarchyConfig, level: int) -> list[tuple[Tensor, Tensor]]:
    """(N, D) vectors of a level and (N, 2, A) their edges in level-0 coordinates, for each sample.

    Vectors of a video are means over moments. Those of an image are tokens, with the bounding boxes of their patches.
    """
    return _regions(pyramid, level) if pyramid[0].axes == 2 else _moments(pyramid, config, level)


def _regions(pyramid: Pyramid, level: int) -> list[tuple[Tensor, Tensor]]:
    bottom, tokens = pyramid[0], pyramid[level]
    split_coords = bottom.spans.split(bottom.coords_TC.cpu())
    runs = tokens.spans.split(token_ranges(pyramid, level))
    regions = []
    for x_ND, coords_TC, runs_N2 in zip(tokens.split(), split_coords, runs, strict=True):
        coords_of_token = [coords_TC[first:end] for first, end in runs_N2.tolist()]
        boxes = [torch.stack([coords.amin(0), coords.amax(0) + 1]) for coords in coords_of_token]
        regions.append((x_ND, torch.stack(boxes).double()))
    return regions


def _moments(pyramid: Pyramid, config: HierarchyConfig, level: int) -> list[tuple[Tensor, Tensor]]:
    frames, bottom = frames_of(pyramid, config, level), pyramid[0]
    grid = pyramid[level].grids is not None
    moments = []
    for (x_ND, edges_N2), coords_TC in zip(frames.split(), bottom.spans.split(bottom.coords_TC.cpu()), strict=True):
        times_T = coords_TC[:, 0].unique() if grid else coords_TC[:, 0]
        first_N, last_N = times_T[edges_N2[:, 0].cpu()], times_T[edges_N2[:, 1].cpu() - 1]
        moments.append((x_ND, torch.stack([first_N, last_N + _spacing(times_T)], 1).double()[..., None]))
    return moments


def _spacing(times_T: Tensor) -> float:
    """Distance between consecutive times: 1, except for videos with another frame rate than the tokenizer's."""
    distinct = times_T.unique()
    return float(distinct.diff().median()) if len(distinct) > 1 else 1.0
