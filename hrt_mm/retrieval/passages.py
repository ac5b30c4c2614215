"""Pieces of samples with their vectors and their parents.

Shapes: N pieces, D width, A axes (time; or rows and columns of an image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Passages:
    """The pieces of one sample at a level.

    Args:
        level: its name.
        vectors_ND: of the pieces, in order.
        edges_N2A: start and end of each along each axis, in level-0 coordinates.
        media: suffix and bytes of a media file for each, if requested.
    """

    level: str
    vectors_ND: np.ndarray
    edges_N2A: Tensor
    media: tuple[tuple[str, bytes] | None, ...] = ()


def within(edges_N2A: Tensor, interval: tuple[float, float]) -> Tensor:
    """(n,) indices of the pieces whose center is in an interval of time; the nearest piece if there are none."""
    centers_N = edges_N2A[..., 0].mean(1)
    inside_N = (interval[0] <= centers_N) & (centers_N < interval[1])
    return inside_N.nonzero()[:, 0] if inside_N.any() else (centers_N - interval[0]).abs().argmin()[None]


def concatenate(stretches: Sequence[Passages]) -> Passages:
    """The pieces of consecutive stretches of one sample."""
    vectors_ND = np.concatenate([stretch.vectors_ND for stretch in stretches])
    media = tuple(file for stretch in stretches for file in stretch.media)
    return Passages(stretches[0].level, vectors_ND, torch.cat([stretch.edges_N2A for stretch in stretches]), media)


def parents(levels: Sequence[Passages]) -> list[list[int | None]]:
    """For each piece, the index of the piece one level coarser that contains its center; None at the first level.

    Args:
        levels: of one sample, coarse to fine.
    """
    indices: list[list[int | None]] = [[None] * len(coarsest.edges_N2A) for coarsest in levels[:1]]
    for coarse, fine in pairwise(levels):
        centers_NA = fine.edges_N2A.mean(1)
        if centers_NA.shape[1] == 1:
            starts_N = coarse.edges_N2A[:, 0, 0].contiguous()
            parents_N = (torch.searchsorted(starts_N, centers_NA[:, 0], right=True) - 1).clamp(min=0)
        else:
            # (fine, coarse, A) distance of each center from each box, which is 0 inside; the nearest box is the parent.
            starts_NA, ends_NA = coarse.edges_N2A[:, 0], coarse.edges_N2A[:, 1]
            outside = torch.maximum(starts_NA - centers_NA[:, None], centers_NA[:, None] - ends_NA).clamp(min=0)
            parents_N = outside.square().sum(-1).argmin(1)
        indices.append(parents_N.tolist())
    return indices
