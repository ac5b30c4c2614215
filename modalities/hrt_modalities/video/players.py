"""Encodes videos as small files for web pages.

Shapes: N frames, C channels, H rows, W columns.
"""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from .rendering import write
from .video import Video

SIDE = 240
"""Pixels of the shorter side to which larger frames are scaled down."""
SECONDS = 20.0
"""Limit of the duration; the rest is dropped."""
RATES = (1.0, 60.0)
"""Least and largest frame rate."""


def mp4(video: Video | tuple[Video, ...], span: tuple[float, float] | None = None) -> bytes:
    """A video, or a part of it, as H.264 in mp4, without sound.

    Args:
        video: the video, or its windows, of which the middle one is taken.
        span: of the part in seconds; the whole when absent. At least one frame is written.
    """
    clip = video if isinstance(video, Video) else video[len(video) // 2]
    times_N = clip.times_N
    first, last = span if span is not None else (0.0, clip.seconds)
    last = min(last, first + SECONDS)
    begin = max(0, int(torch.searchsorted(times_N, first + 1e-6, right=True)) - 1)
    end = max(begin + 1, int(torch.searchsorted(times_N, last - 1e-6)))
    pixels_NHW3 = _playable(clip.pixels_NCHW[begin:end])
    # The rate of evenly spaced frames; a single frame lasts as long as the video.
    step = float(times_N.diff().median()) if len(times_N) > 1 else clip.seconds
    rate = Fraction(min(RATES[1], max(RATES[0], 1 / step))).limit_denominator(1000)
    file = BytesIO()
    frames = (np.ascontiguousarray(pixels_HW3.numpy()) for pixels_HW3 in pixels_NHW3)
    rows, columns = pixels_NHW3.shape[1:3]
    write(file, frames, rate, (rows, columns), {"preset": "veryfast", "crf": "23"})
    return file.getvalue()


def _playable(pixels_NCHW: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 with even sides, as H.264 requires, scaled down to ``SIDE``."""
    pixels_NCHW = pixels_NCHW.expand(-1, 3, -1, -1)
    if pixels_NCHW.is_floating_point():
        pixels_NCHW = (pixels_NCHW.clamp(0, 1) * 255).round().to(torch.uint8)
    rows, columns = pixels_NCHW.shape[2:]
    shrink = min(1.0, SIDE / min(rows, columns))
    size = [max(2, round(length * shrink / 2) * 2) for length in (rows, columns)]
    if [rows, columns] != size:
        floats_NCHW = F.interpolate(pixels_NCHW.float(), size=size, mode="bilinear", antialias=shrink < 1)
        pixels_NCHW = floats_NCHW.round().clamp(0, 255).to(torch.uint8)
    return rearrange(pixels_NCHW, "n c h w -> n h w c")
