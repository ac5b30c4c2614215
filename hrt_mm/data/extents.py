"""The sizes of inputs that a model was trained on, so that files of other sizes can be brought to them.

Shapes: B samples, C axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..core.tokens import Tokens


@dataclass(frozen=True)
class Extents:
    """Between which sizes inputs lay, in level-0 tokens.

    Args:
        smallest: tokens along each axis, of each axis the fewest.
        largest: the most.
        spacing: the smallest and the largest distance between neighbouring tokens along the first axis, in steps; 1
            where inputs had the nominal rate. ``None`` where no sample had two tokens there.
    """

    smallest: tuple[int, ...]
    largest: tuple[int, ...]
    spacing: tuple[float, float] | None = None

    @classmethod
    def of(cls, tokens: Tokens) -> Extents | None:
        """Those of a batch on the host; nothing where all of its samples are empty."""
        offsets = tokens.spans.host
        filled_B = offsets.diff() > 0
        if not filled_B.any():
            return None
        sizes_BC = tokens.spans.lengths[:, None] if tokens.grids is None else torch.tensor(tokens.grids)
        sizes_BC = sizes_BC.cpu()[filled_B]
        axis = tokens.coords_TC[:, 0]
        # The last token of a sample is the last along every axis, in a sequence and in a grid's nested order alike.
        reach_B = (axis[offsets[1:][filled_B] - 1] - axis[offsets[:-1][filled_B]]).double()
        several_B = sizes_BC[:, 0] > 1
        spacing = None
        if several_B.any():
            spacing_B = reach_B[several_B] / (sizes_BC[several_B, 0] - 1)
            spacing = (float(spacing_B.min()), float(spacing_B.max()))
        return cls(tuple(sizes_BC.amin(0).tolist()), tuple(sizes_BC.amax(0).tolist()), spacing)

    def joined(self, other: Extents) -> Extents:
        """The smallest extents that hold both."""
        known = [spacing for spacing in (self.spacing, other.spacing) if spacing is not None]
        return Extents(
            tuple(map(min, self.smallest, other.smallest)),
            tuple(map(max, self.largest, other.largest)),
            (min(low for low, _ in known), max(high for _, high in known)) if known else None,
        )

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {"smallest": list(self.smallest), "largest": list(self.largest), "spacing": self.spacing}

    @classmethod
    def of_plain(cls, value: Mapping[str, Any]) -> Extents:
        """From what JSON holds."""
        spacing = value["spacing"]
        return cls(
            tuple(map(int, value["smallest"])),
            tuple(map(int, value["largest"])),
            None if spacing is None else (float(spacing[0]), float(spacing[1])),
        )

    def nearest_spacing(self, spacing: float, tolerance: float = 0.02) -> float | None:
        """The trained spacing that is nearest to one; nothing where that was trained on, but for a tolerance."""
        if self.spacing is None:
            return None
        low, high = self.spacing
        if low * (1 - tolerance) <= spacing <= high * (1 + tolerance):
            return None
        return min(max(spacing, low), high)

    def nearest_size(self, size: tuple[int, int], cell: int) -> tuple[int, int] | None:
        """The trained size of a picture that is nearest to one; nothing where that was trained on.

        The picture is scaled until it lies within the trained sizes, and keeps its proportions as far as they allow.

        Args:
            size: rows and columns, in pixels.
            cell: pixels that the side of a token covers.
        """
        least, most = self.smallest[-2:], self.largest[-2:]
        counts = tuple(-(-side // cell) for side in size)
        if all(low <= count <= high for low, count, high in zip(least, counts, most, strict=True)):
            return None
        if any(count > high for count, high in zip(counts, most, strict=True)):
            scale = min(high * cell / side for high, side in zip(most, size, strict=True))
        else:
            scale = max(low * cell / side for low, side in zip(least, size, strict=True))
        rows, columns = (
            min(max(round(side * scale), (low - 1) * cell + 1), high * cell)
            for low, side, high in zip(least, size, most, strict=True)
        )
        # Where only whole tokens were seen, as with one size alone, a picture fills them.
        rows, columns = (
            high * cell if low == high else side for low, side, high in zip(least, (rows, columns), most, strict=True)
        )
        return rows, columns
