"""The input of the video tokenizer: frames with their times and boundaries.

Shapes: N frames, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hrt_mm.core.errors import BadSample

from ..audio.audio import check_starts


@dataclass(frozen=True, eq=False)
class Video:
    """A video, or a clip of one.

    Args:
        pixels_NCHW: uint8, or floats in 0..1; of 1 or 3 channels, upright.
        times_N: start times of frames in seconds, ascending, float64, from 0 on.
        seconds: duration of the video.
        boundaries: by name, start times of groups such as shots and words in seconds, ascending.
        lost: number of frames that could not be decoded.
    """

    pixels_NCHW: Tensor
    times_N: Tensor
    seconds: float
    boundaries: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    lost: int = 0

    def __len__(self) -> int:
        return len(self.pixels_NCHW)

    @classmethod
    def of(cls, pixels_NCHW: Tensor, rate: float, **fields: Any) -> Video:
        """A video with a constant frame rate.

        Args:
            pixels_NCHW: the frames.
            rate: frames per second.
            fields: boundaries.
        """
        times_N = torch.arange(len(pixels_NCHW), dtype=torch.float64) / rate
        return cls(pixels_NCHW, times_N, len(pixels_NCHW) / rate, **fields)


def check_video(value: Any, name: str) -> Video:
    """A sample's value, checked.

    Args:
        value: a :class:`Video`.
        name: of the sample, for messages.

    Raises:
        BadSample: it is none, or its frames, times or boundaries are invalid.
    """
    if not isinstance(value, Video):
        raise BadSample(name, f"is {type(value).__name__}, not a video; give Video.of(frames, rate)")
    _check_pixels(value.pixels_NCHW, name)
    times_N = value.times_N
    if times_N.shape != (len(value),) or not bool(times_N.isfinite().all()):
        raise BadSample(
            name, f"has {len(value)} frames and times of shape {tuple(times_N.shape)}; one finite time each"
        )
    if bool((times_N.diff() <= 0).any()) or float(times_N[0]) < 0:
        raise BadSample(name, "has frames whose times do not ascend from 0 on; sort them, and drop repeats")
    if not value.seconds > float(times_N[-1]):
        raise BadSample(name, f"lasts {value.seconds:g} s, but its last frame begins at {float(times_N[-1]):g} s")
    for boundary, starts in value.boundaries.items():
        check_video_starts(starts, value.seconds, boundary, name)
    return value


def _check_pixels(pixels: Any, name: str) -> None:
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or not pixels.numel():
        shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise BadSample(name, f"frames must be (N, C, H, W) with 1 or 3 channels and no empty side, got {shape}")
    if pixels.dtype == torch.uint8:
        return
    if not pixels.is_floating_point():
        raise BadSample(name, f"frames must be uint8, or floats in 0..1, got {pixels.dtype}")
    low, high = (float(value) for value in pixels.aminmax())
    if not (low >= -0.01 and high <= 1.01):
        raise BadSample(name, f"floats must lie in 0..1, got {low:g} to {high:g}; divide by the largest value")


def check_video_starts(starts: Sequence[float], seconds: float, boundary: str, name: str) -> None:
    """Checks the start times of groups; see :func:`..audio.audio.check_starts`."""
    # Times in tables are rounded, and sound is often a little longer than the picture.
    check_starts(starts, seconds, boundary, name, what="video", slack=0.25)
