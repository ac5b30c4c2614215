"""Pictures brought to another size: stretched, or the middle of them cropped.

Shapes: N pictures, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

Fit = Literal["stretch", "crop"]
Size = tuple[int, int]


def middle(shape: Size, size: Size) -> tuple[int, int, int, int]:
    """Top, left, rows and columns of the middle of a picture that has the proportions of ``size``."""
    (height, width), (rows, columns) = shape, size
    high = min(height, max(1, round(width * rows / columns)))
    wide = min(width, max(1, round(height * columns / rows)))
    return (height - high) // 2, (width - wide) // 2, high, wide


def resized(pixels_NCHW: Tensor, size: Size, fit: Fit) -> Tensor:
    """Pictures at another size, floats."""
    if fit == "crop":
        # Cropped before they are resized: the other way, a thin strip would first grow without bound.
        top, left, high, wide = middle((pixels_NCHW.shape[2], pixels_NCHW.shape[3]), size)
        pixels_NCHW = pixels_NCHW[:, :, top : top + high, left : left + wide]
    return functional.interpolate(pixels_NCHW, size, mode="bilinear", antialias=True)
