"""Draws videos for reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange

from hrt_mm.core.tokens import Tokens

from .tokenizer import VideoTokenizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_video(axes: Axes, tokenizer: VideoTokenizer, tokens: Tokens) -> None:
    """Draws the frame in the middle of one video from its raw tubes, so that each tube covers a unit cell.

    Args:
        axes: to draw into.
        tokenizer: gives the pixels back.
        tokens: of one video.
    """
    (video,) = tokenizer.restore(tokens)
    assert tokens.grids is not None
    steps, rows, columns = tokens.grids[0]
    frame = len(video) * (steps // 2) // steps
    picture = np.clip(rearrange(video.pixels_NCHW[frame], "c h w -> h w c").cpu().numpy(), 0, 1)
    extent = (0, columns, rows, 0)
    if picture.shape[2] == 1:
        axes.imshow(picture[..., 0], cmap="gray", vmin=0, vmax=1, extent=extent)
    else:
        axes.imshow(picture, extent=extent)
