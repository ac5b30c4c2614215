"""Detection of shot changes with PySceneDetect (the extra ``shots``).

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
"""Recent frames whose times are stored, because detectors decide some frames late."""


def detect_shots(video: Video, detector: Detector = "adaptive", shortest: float = 0.5) -> tuple[float, ...]:
    """Start times of shots in seconds, including the first one.

    Args:
        video: the video.
        detector: of PySceneDetect.
        shortest: least duration of a shot in seconds.

    Raises:
        ConfigError: PySceneDetect is not installed.
    """
    rate = len(video) / video.seconds
    return 0.0, *shot_changes([DecodedFrames(video.pixels_NCHW, video.times_N)], rate, detector, shortest)


def shots_of(file: VideoFile, detector: Detector = "adaptive", shortest: float = 0.5) -> tuple[float, ...]:
    """The same for a file of any length, which is read once."""
    return 0.0, *shot_changes(file.stream(), file.index.rate, detector, shortest)


def shot_changes(blocks: Iterable[DecodedFrames], rate: float, detector: Detector, shortest: float) -> Iterator[float]:
    """Times of shot changes in seconds, as frames arrive.

    Args:
        blocks: frames in order of time.
        rate: average frames per second.
        detector: of PySceneDetect.
        shortest: least duration of a shot in seconds.

    Raises:
        ConfigError: PySceneDetect is not installed.
    """
    with needs_extra("shots", "the detection of shot changes"):
        from scenedetect import FrameTimecode, detectors

    kinds: dict[str, Any] = {
        "adaptive": detectors.AdaptiveDetector,
        "content": detectors.ContentDetector,
        "histogram": detectors.HistogramDetector,
        "threshold": detectors.ThresholdDetector,
    }
    scene_detector = kinds[detector](min_scene_len=max(1, round(shortest * rate)))
    times: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)
    number = 0
    for block in blocks:
        pixels_N3HW = block.pixels_N3HW.expand(-1, 3, -1, -1)
        for pixels, time in zip(pixels_N3HW, block.times_N.tolist(), strict=True):
            times.append((number, time))
            # In OpenCV's order of channels: blue, green, red.
            picture = rearrange(pixels.flip(0), "c h w -> h w c").contiguous().numpy()
            yield from _times(scene_detector.process_frame(FrameTimecode(number, rate), picture), times)
            number += 1
    if number:
        yield from _times(scene_detector.post_process(FrameTimecode(number - 1, rate)), times)


def _times(cuts: Sequence[Any], times: Iterable[tuple[int, float]]) -> list[float]:
    time_of_frame = dict(times)
    return [time_of_frame[cut.frame_num] for cut in cuts if time_of_frame.get(cut.frame_num, 0.0) > 0]
