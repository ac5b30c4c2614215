"""How frames are stored: turned, mirrored, of pixels that are not square, or interlaced.

Shapes: N frames, H rows, W columns.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Orientation:
    """What turns stored frames upright: first they are mirrored from left to right, if at all, and then rotated.

    Args:
        rotation: degrees counter-clockwise: 0, 90, 180 or 270.
        mirrored: whether left and right change places.
    """

    rotation: int = 0
    mirrored: bool = False

    @classmethod
    def of(cls, frame: Any) -> Orientation:
        """That of PyAV's frame, by its display matrix; the nearest one where that is of another angle."""
        matrix = next((bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
        if matrix is None or len(matrix) < 36:
            return cls()
        # A pixel (x, y) is shown at (a x + c y, b x + d y); y points down.
        a, b, _, c, d = struct.unpack("=5i", matrix[:20])
        mirrored = a * d - b * c < 0
        if mirrored:
            a, b = -a, -b
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(0 if a + d >= 0 else 180, mirrored)
        return cls(90 if c - b > 0 else 270, mirrored)

    @property
    def sideways(self) -> bool:
        """Whether rows become columns."""
        return self.rotation % 180 != 0

    def upright(self, pixels_N3HW: Tensor) -> Tensor:
        """Frames as they are shown."""
        if self.mirrored:
            pixels_N3HW = pixels_N3HW.flip(3)
        return torch.rot90(pixels_N3HW, self.rotation // 90, (2, 3)) if self.rotation else pixels_N3HW

    def __str__(self) -> str:
        """For messages."""
        return f"{self.rotation} degrees{', mirrored' if self.mirrored else ''}"
