"""Draws videos for reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hrt_mm.core.tokens import Tokens

from ..vision.figures import draw_picture
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
    draw_picture(axes, video.pixels_NCHW[frame], rows, columns)
