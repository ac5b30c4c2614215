"""Where the tokens of a level lie in a sample.

Shapes: N pieces, D width, A axes (time; or rows and columns of an image), T level-0 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.levels import HierarchyConfig
from ..core.pyramid import Pyramid
from ..data.capabilities import BoxLocating, Lasting, Textual, Timed, positions_at
from ..tasks.ctc import frames_of, token_ranges
from .reading import TowerReader

Location = tuple[float, ...]
"""Start and end of a part of a sample; or left, top, right and bottom of a part of a picture."""


@dataclass(frozen=True, eq=False)
class LevelVectors:
    """The tokens of a level of one sample.

    Args:
        level: its name.
        vectors_ND: of the tokens, on the host; of a video, the means over moments.
        locations: of each, in ``unit``.
        unit: ``seconds``, ``bytes`` of a text, ``pixels``, or ``tokens``.
    """

    level: str
    vectors_ND: Tensor = field(repr=False)
    locations: tuple[Location, ...] = field(repr=False)
    unit: str

    def __len__(self) -> int:
        return len(self.vectors_ND)

    def __str__(self) -> str:
        count, width = self.vectors_ND.shape
        ends = [self.locations[0], *([self.locations[-1]] if count > 1 else [])] if count else []
        shown = " to ".join("(" + ", ".join(f"{value:g}" for value in location) + ")" for location in ends)
        return f"{self.level}: {count} tokens of width {width}, {shown} in {self.unit}"


def unit_of(reader: TowerReader) -> str:
    """The unit of locations in samples of a tower."""
    if isinstance(reader.tokenizer, Timed) or issubclass(reader.modality, Lasting):
        return "seconds"
    if issubclass(reader.modality, Textual):
        return "bytes"
    return "pixels" if reader.tokenizer.axes == 2 and isinstance(reader.tokenizer, BoxLocating) else "tokens"


def locations_of(reader: TowerReader, value: Any, edges_N2A: Tensor) -> list[Location]:
    """Where parts of a sample lie.

    Args:
        reader: of the tower.
        value: the raw sample.
        edges_N2A: start and end of each part along each axis, in level-0 coordinates.
    """
    tokenizer = reader.tokenizer
    if edges_N2A.shape[2] == 2 and isinstance(tokenizer, BoxLocating):
        return [tokenizer.box(value, edges_2A.flatten().tolist()) for edges_2A in edges_N2A]
    # In one call, as a tokenizer may tokenize the sample for it.
    positions = positions_at(tokenizer, value, edges_N2A[..., 0].flatten().tolist())
    return list(zip(positions[::2], positions[1::2], strict=True))


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
