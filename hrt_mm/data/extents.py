"""The range of input sizes that a model was trained on, so that other inputs can be resized or resampled to it.

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
    """The range of input sizes, in level-0 tokens.

    Args:
        smallest: fewest tokens along each axis.
        largest: most tokens along each axis.
        spacing: smallest and largest distance between neighbouring tokens along the first axis, in coordinate units;
            1 at the nominal rate. ``None`` if no sample has two tokens along it.
    """

    smallest: tuple[int, ...]
    largest: tuple[int, ...]
    spacing: tuple[float, float] | None = None

    @classmethod
    def of(cls, tokens: Tokens) -> Extents | None:
        """The extents of a batch on the host; ``None`` if all of its samples are empty."""
        offsets = tokens.spans.host
        filled_B = offsets.diff() > 0
        if not filled_B.any():
            return None
        sizes_BC = tokens.spans.lengths[:, None] if tokens.grids is None else torch.tensor(tokens.grids)
        sizes_BC = sizes_BC.cpu()[filled_B]
        axis = tokens.coords_TC[:, 0]
        # The last token of a sample is the last along every axis, in a sequence and in a grid's nested order alike.
        length_B = (axis[offsets[1:][filled_B] - 1] - axis[offsets[:-1][filled_B]]).double()
        several_B = sizes_BC[:, 0] > 1
        spacing = None
        if several_B.any():
            spacing_B = length_B[several_B] / (sizes_BC[several_B, 0] - 1)
            spacing = (float(spacing_B.min()), float(spacing_B.max()))
        return cls(tuple(sizes_BC.amin(0).tolist()), tuple(sizes_BC.amax(0).tolist()), spacing)

    def joined(self, other: Extents) -> Extents:
        """The union of two ranges."""
        spacings = [spacing for spacing in (self.spacing, other.spacing) if spacing is not None]
        return Extents(
            tuple(map(min, self.smallest, other.smallest)),
            tuple(map(max, self.largest, other.largest)),
            (min(low for low, _ in spacings), max(high for _, high in spacings)) if spacings else None,
        )

    def plain(self) -> dict[str, Any]:
        """JSON-serializable form."""
        return {"smallest": list(self.smallest), "largest": list(self.largest), "spacing": self.spacing}

    @classmethod
    def of_plain(cls, value: Mapping[str, Any]) -> Extents:
        """The inverse of :meth:`plain`."""
        spacing = value["spacing"]
        return cls(
            tuple(map(int, value["smallest"])),
            tuple(map(int, value["largest"])),
            None if spacing is None else (float(spacing[0]), float(spacing[1])),
        )

    def nearest_spacing(self, spacing: float, tolerance: float = 0.02) -> float | None:
        """The nearest spacing in the trained range; ``None`` if ``spacing`` is within it, up to a tolerance."""
        if self.spacing is None:
            return None
        low, high = self.spacing
        if low * (1 - tolerance) <= spacing <= high * (1 + tolerance):
            return None
        return min(max(spacing, low), high)

    def nearest_size(self, size: tuple[int, int], cell: int) -> tuple[int, int] | None:
        """The nearest image size in the trained range; ``None`` if ``size`` is within it.

        The aspect ratio is kept as far as the range allows.

        Args:
            size: height and width, in pixels.
            cell: side of a token, in pixels.
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
        # With a single trained size, images filled their tokens completely, so this one has to as well.
        rows, columns = (
            high * cell if low == high else side for low, side, high in zip(least, (rows, columns), most, strict=True)
        )
        return rows, columns
