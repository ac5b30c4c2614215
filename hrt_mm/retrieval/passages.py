"""Pieces of samples: the tokens of a level, or the moments of a video, with where they lie and what they lie in.

Shapes: N pieces, D width, A axes: time alone, or rows and columns of a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..core.levels import HierarchyConfig
from ..core.pyramid import Pyramid
from ..tasks.ctc import frames_of, token_ranges


@dataclass(frozen=True, eq=False)
class Passages:
    """The pieces of one sample at a level.

    Args:
        level: its name.
        vectors_ND: of the pieces, in order.
        edges_N2A: where each begins and ends along each axis, in level-0 steps.
        shown: of each a file that a page can show, its suffix and bytes, where they were asked for.
    """

    level: str
    vectors_ND: np.ndarray
    edges_N2A: Tensor
    shown: tuple[tuple[str, bytes] | None, ...] = ()


@torch.no_grad()
def placed(pyramid: Pyramid, config: HierarchyConfig, level: int) -> list[tuple[Tensor, Tensor]]:
    """Of each sample, (N, D) vectors of a level and (N, 2, A) their edges in level-0 steps.

    Of a video a vector is the mean of a moment; of a picture it is a token, and its place the box around its patches.
    """
    return _regions(pyramid, level) if pyramid[0].axes == 2 else _moments(pyramid, config, level)


def _regions(pyramid: Pyramid, level: int) -> list[tuple[Tensor, Tensor]]:
    bottom, tokens = pyramid[0], pyramid[level]
    places = bottom.spans.split(bottom.coords_TC.cpu())
    runs = tokens.spans.split(token_ranges(pyramid, level))
    found = []
    for x_ND, coords_TC, runs_N2 in zip(tokens.split(), places, runs, strict=True):
        own = [coords_TC[first:end] for first, end in runs_N2.tolist()]
        boxes = [torch.stack([coords.amin(0), coords.amax(0) + 1]) for coords in own]
        found.append((x_ND, torch.stack(boxes).double()))
    return found


def _moments(pyramid: Pyramid, config: HierarchyConfig, level: int) -> list[tuple[Tensor, Tensor]]:
    steps, bottom = frames_of(pyramid, config, level), pyramid[0]
    grid = pyramid[level].grids is not None
    found = []
    for (x_ND, edges_N2), coords_TC in zip(steps.split(), bottom.spans.split(bottom.coords_TC.cpu()), strict=True):
        places_T = coords_TC[:, 0].unique() if grid else coords_TC[:, 0]
        first_N, last_N = places_T[edges_N2[:, 0]], places_T[edges_N2[:, 1] - 1]
        found.append((x_ND, torch.stack([first_N, last_N + _step(places_T)], 1).double()[..., None]))
    return found


def owned(edges_N2A: Tensor, own: tuple[float, float]) -> Tensor:
    """(n,) which pieces have their middle where a stretch stands for the whole; where none has, the nearest one."""
    middles_N = edges_N2A[..., 0].mean(1)
    inside_N = (own[0] <= middles_N) & (middles_N < own[1])
    return inside_N.nonzero()[:, 0] if inside_N.any() else (middles_N - own[0]).abs().argmin()[None]


def joined(parts: Sequence[Passages]) -> Passages:
    """The pieces of stretches of one sample that follow each other."""
    vectors_ND = np.concatenate([part.vectors_ND for part in parts])
    shown = tuple(file for part in parts for file in part.shown)
    return Passages(parts[0].level, vectors_ND, torch.cat([part.edges_N2A for part in parts]), shown)


def _step(places_T: Tensor) -> float:
    """How far one step is from the next: 1, but for videos of other rates than the tokenizer's."""
    rising = places_T.unique()
    return float(rising.diff().median()) if len(rising) > 1 else 1.0


def parents(levels: Sequence[Passages]) -> list[list[int | None]]:
    """Of each piece of each level, which piece of the level before it its middle lies in; of the first none.

    Args:
        levels: of one sample, from the coarsest to the finest.
    """
    found: list[list[int | None]] = [[None] * len(own.edges_N2A) for own in levels[:1]]
    for coarse, fine in pairwise(levels):
        middles_NA = fine.edges_N2A.mean(1)
        if middles_NA.shape[1] == 1:
            starts_N = coarse.edges_N2A[:, 0, 0].contiguous()
            places_N = (torch.searchsorted(starts_N, middles_NA[:, 0], right=True) - 1).clamp(min=0)
        else:
            before, after = (coarse.edges_N2A[:, side] for side in (0, 1))
            outside = torch.maximum(before - middles_NA[:, None], middles_NA[:, None] - after).clamp(min=0)
            places_N = outside.square().sum(-1).argmin(1)
        found.append(places_N.tolist())
    return found
