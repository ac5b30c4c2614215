"""Shot changes that PySceneDetect finds in the picture (the extra ``shots``): a given source of boundaries.

Shapes: N frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from einops import rearrange

from hrt_mm.core.extras import needs_extra

from .readers import DecodedFrames, VideoFile
from .video import Video

Detector = Literal["adaptive", "content", "histogram", "threshold"]
_REMEMBERED = 256
"""Frames whose times are kept: detectors decide a few frames late."""


def detect_shots(video: Video, detector: Detector = "adaptive", shortest: float = 0.5) -> tuple[float, ...]:
    """Seconds at which shots begin, the first one among them.

    Args:
        video: its frames are all looked at.
        detector: one of PySceneDetect's.
        shortest: seconds between two changes.

    Raises:
        ConfigError: PySceneDetect is not installed.
    """
    rate = len(video) / video.seconds
    return 0.0, *detected([DecodedFrames(video.pixels_NCHW, video.times_N)], rate, detector, shortest)


def shots_of(file: VideoFile, detector: Detector = "adaptive", shortest: float = 0.5) -> tuple[float, ...]:
    """The same of a file of any length, which is read once from beginning to end."""
    return 0.0, *detected(file.stream(), file.index.rate, detector, shortest)


def detected(blocks: Iterable[DecodedFrames], rate: float, detector: Detector, shortest: float) -> Iterator[float]:
    """Seconds of shot changes, as frames come in.

    Args:
        blocks: frames in time.
        rate: frames a second, on average.
        detector: one of PySceneDetect's.
        shortest: seconds between two changes.

    Raises:
        ConfigError: PySceneDetect is not installed.
    """
    judge, timecode = _detector(detector, max(1, round(shortest * rate)))
    times: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
    number = 0
    for block in blocks:
        pixels_N3HW = block.pixels_N3HW.expand(-1, 3, -1, -1)
        for pixels, time in zip(pixels_N3HW, block.times_N.tolist(), strict=True):
            times.append((number, time))
            # Blue, green, red, as OpenCV has them.
            picture = rearrange(pixels.flip(0), "c h w -> h w c").contiguous().numpy()
            yield from _times(judge.process_frame(timecode(number, rate), picture), times)
            number += 1
    if number:
        yield from _times(judge.post_process(timecode(number - 1, rate)), times)


def _times(cuts: Sequence[Any], times: Iterable[tuple[int, float]]) -> list[float]:
    time_of_frame = dict(times)
    return [time_of_frame[cut.frame_num] for cut in cuts if time_of_frame.get(cut.frame_num, 0.0) > 0]


def _detector(name: Detector, shortest: int) -> tuple[Any, Any]:
    with needs_extra("shots", "the detection of shot changes"):
        from scenedetect import FrameTimecode, detectors

    kinds = {
        "adaptive": detectors.AdaptiveDetector,
        "content": detectors.ContentDetector,
        "histogram": detectors.HistogramDetector,
        "threshold": detectors.ThresholdDetector,
    }
    return kinds[name](min_scene_len=shortest), FrameTimecode
