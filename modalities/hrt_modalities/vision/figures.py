"""Draws images for reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from torch import Tensor

from hrt_mm.core.tokens import Tokens

from .sequence import SHADES, PixelTokenizer
from .tokenizer import VisionTokenizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_image(axes: Axes, tokenizer: VisionTokenizer | PixelTokenizer, tokens: Tokens) -> None:
    """Draws one image from its raw patches, so that each patch covers a unit cell; a sequence of pixels as a strip.

    Args:
        axes: to draw into.
        tokenizer: gives the pixels back.
        tokens: of one image.
    """
    if isinstance(tokenizer, PixelTokenizer):
        strip = tokens.x.view(1, 1, -1).float() / (SHADES - 1)
        draw_picture(axes, strip, 1, strip.shape[-1])
        axes.set_aspect("auto")
        return
    (pixels_CHW,) = tokenizer.restore(tokens)
    assert tokens.grids is not None
    draw_picture(axes, pixels_CHW, *tokens.grids[0])


def draw_picture(axes: Axes, pixels_CHW: Tensor, rows: int, columns: int) -> None:
    """Draws pixels in 0..1 over ``rows`` times ``columns`` unit cells."""
    extent = (0, columns, rows, 0)
    picture = np.clip(rearrange(pixels_CHW, "c h w -> h w c").cpu().numpy(), 0, 1)
    if picture.shape[2] == 1:
        axes.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1, extent=extent)
    else:
        axes.imshow(picture, extent=extent)
