"""Pieces of samples: the tokens of a level, or the moments of a video, with where they lie and what they lie in.

Shapes: N pieces, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..ctc import steps_of
from ..levels import HierarchyConfig
from ..pyramid import Pyramid


@dataclass(frozen=True, eq=False)
class Passages:
    """The pieces of one sample at a level.

    Args:
        level: its name.
        vectors_ND: of the pieces, in order.
        edges_N2: where each begins and ends along the first axis, in level-0 steps.
    """

    level: str
    vectors_ND: np.ndarray
    edges_N2: Tensor


@torch.no_grad()
def moments(pyramid: Pyramid, config: HierarchyConfig, level: int) -> list[tuple[Tensor, Tensor]]:
    """Of each sample, the rows of a level and their edges in level-0 steps. Of grids a row is the mean of a moment."""
    steps, bottom = steps_of(pyramid, config, level), pyramid[0]
    grid = pyramid[level].grids is not None
    found = []
    for (x_ND, edges_N2), coords_TC in zip(steps.split(), bottom.spans.split(bottom.coords_TC.cpu()), strict=True):
        places_T = coords_TC[:, 0].unique() if grid else coords_TC[:, 0]
        first_N, last_N = places_T[edges_N2[:, 0]], places_T[edges_N2[:, 1] - 1]
        found.append((x_ND, torch.stack([first_N, last_N + _step(places_T)], 1).double()))
    return found


def _step(places_T: Tensor) -> float:
    """How far one step is from the next: 1, but for videos of other rates than the tokenizer's."""
    rising = places_T.unique()
    return float(rising.diff().median()) if len(rising) > 1 else 1.0


def parents(levels: Sequence[Passages]) -> list[list[int | None]]:
    """Of each piece of each level, which piece of the level before it its middle lies in; of the first none.

    Args:
        levels: of one sample, from the coarsest to the finest.
    """
    found: list[list[int | None]] = [[None] * len(own.edges_N2) for own in levels[:1]]
    for coarse, fine in pairwise(levels):
        middles_N = fine.edges_N2.mean(1)
        places_N = torch.searchsorted(coarse.edges_N2[:, 0].contiguous(), middles_N, right=True) - 1
        found.append([max(0, int(place)) for place in places_N])
    return found
