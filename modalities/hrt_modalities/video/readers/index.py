"""The index of a video file: its frames with their times.

It comes from a walk over the packets of the video stream with FFmpeg (PyAV). The times of frames are therefore those
that players use, whatever the header declares as rate and length. The first frames are decoded to confirm the packets,
and the whole stream if they are inconsistent (:mod:`~hrt_modalities.video.readers.packets`).

Shapes: N frames of the file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrt_mm.core.errors import BadSample
from hrt_mm.core.extras import needs_extra

from ...common.file_cache import FileCache
from .orientation import Orientation
from .packets import NONE, PICTURES, Packets, SeekPlan, make_plan

log = logging.getLogger(__name__)

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".3gp", ".ogv", ".flv", ".wmv"}
)
"""Suffixes of video files in folders."""
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,flv,asf,mxf,nut,ivf,h264,hevc,m4v,gif"
"""Containers that are opened. Those that name other files (playlists, concatenations) are not among them."""
OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
MAX_PIXELS = 8192 * 8192
"""Default limit of the pixels of a frame: a small file can decode to gigabytes."""
_RESTART = 1.0
"""Timestamps that go back by so many seconds are taken for a restarted clock, as in joined streams."""
_MOST_SECONDS = 1e7
"""Times of a video beyond four months are wrong."""
_MOST_OBLONG = 16.0
"""Pixel aspect ratios beyond this are wrong; such pixels are taken for squares."""
_CACHED_FRAMES = 1_000_000
"""Frames of all indices in the cache, of 16 to 52 bytes each: training opens short files in every epoch."""


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """The frames of a file in presentation order.

    Args:
        width: of the stored frames.
        height: of the stored frames.
        orientation: turns stored frames upright.
        pixel_aspect: width of a stored pixel over its height; 1 for square pixels.
        interlaced: whether the first frame has two fields of different times.
        codec: FFmpeg's name of the codec.
        container: FFmpeg's names of the format.
        times_N: presentation time of each frame in seconds, float64, ascending from 0.
        keys: frames that the container flags as key frames, ascending.
        seconds: duration of the video.
        plan: maps frames to packets.
        declared: number of frames in the header, if there is one.
        missing: how many of these the file lacks.
        sound: whether there is an audio track.
        zero: presentation time of the first frame by the container's clock in seconds; ``None`` if it has none.
        chapters: start times of chapters in seconds, if the file has any.
    """

    width: int
    height: int
    orientation: Orientation
    pixel_aspect: float
    interlaced: bool
    codec: str
    container: str
    times_N: Tensor
    keys: tuple[int, ...]
    seconds: float
    plan: SeekPlan
    declared: int | None
    missing: int
    sound: bool
    zero: Fraction | None = None
    chapters: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.times_N)

    def stored(self, side: int | None = None, *, square_pixels: bool = True) -> tuple[int, int]:
        """Rows and columns that frames are decoded to, before they are turned upright.

        Args:
            side: pixels of the shorter side that larger frames are scaled down to.
            square_pixels: whether columns are resampled so that a pixel is as wide as it is high.
        """
        height, width = self.height, self.width
        if square_pixels and self.pixel_aspect != 1:
            width = max(1, round(width * self.pixel_aspect))
        if side is not None and min(height, width) > side:
            shorter = min(height, width)
            height, width = (max(1, round(length * side / shorter)) for length in (height, width))
        return height, width

    def upright(self, side: int | None = None, *, square_pixels: bool = True) -> tuple[int, int]:
        """Rows and columns of upright frames; arguments as those of :meth:`stored`."""
        height, width = self.stored(side, square_pixels=square_pixels)
        return (width, height) if self.orientation.sideways else (height, width)

    @property
    def rate(self) -> float:
        """Average frames per second."""
        return len(self) / self.seconds

    def at(self, seconds: float) -> int:
        """The frame that is displayed at a time; the first one before the beginning, the last one after the end."""
        # Times in tables are rounded, so a frame counts from a tenth of a millisecond before it begins.
        position = int(torch.searchsorted(self.times_N, seconds + 1e-4, right=True)) - 1
        return min(max(0, position), len(self) - 1)


_INDICES: FileCache[FrameIndex] = FileCache(len, _CACHED_FRAMES)


def read_index(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> FrameIndex:
    """The frames of a file, cached as long as its size and modification time stay the same.

    Args:
        path: the file.
        name: of the sample, for messages.
        max_pixels: of a frame; larger ones are refused.

    Raises:
        BadSample: the file is missing, empty, no video, has sound only or no frames, or its frames are too large or
            have neither times nor a rate.
    """
    return _INDICES.get(path, name, lambda: _read(path, name, max_pixels), max_pixels)


def _read(path: Path, name: str, max_pixels: int) -> FrameIndex:
    with needs_extra("video"):
        import av

    try:
        with opened(path, name) as container:
            stream = video_stream(container, name)
            width, height = stream.codec_context.width, stream.codec_context.height
            if min(width, height) < 1:
                raise BadSample(name, "its header gives no size of the frames; it is broken or cut off, fetch it again")
            if width * height > max_pixels:
                raise BadSample(name, f"{width}x{height} pixels a frame are more than data.max_pixels={max_pixels}")
            packets = Packets.of(container, stream)
            marks = (float(mark["start"] * mark["time_base"]) for mark in container.chapters() if mark["time_base"])
            chapters = tuple(sorted({start for start in marks if start >= 0}))
            sound = any(other.codec_context is not None for other in container.streams.audio)
        if not len(packets):
            raise BadSample(name, "has no frames; remove it, or fetch it again")
        with opened(path, name) as container:
            stream = video_stream(container, name)
            plan, first = make_plan(packets, container, stream)
            if not len(plan.order_N):
                raise BadSample(name, "none of its frames can be decoded; fetch it again, or convert it to mp4")
            times, seconds = _times(plan, packets, stream, name)
            if not 0 < seconds < _MOST_SECONDS:
                raise BadSample(
                    name, f"lasts {seconds:g} s by the times of its frames, which are broken; convert it to mp4"
                )
            keys = np.flatnonzero(packets.keys[plan.order_N]) if not plan.counted else np.zeros(0, np.int64)
            interlaced = first is not None and bool(first.interlaced_frame)
            if interlaced:
                _warn_of_fields(name)
            # A wrong aspect ratio would stretch frames beyond any memory.
            aspect = float(stream.sample_aspect_ratio or 1)
            stamps = None if plan.counted else _stamps(plan.order_N, packets)
            zero = None if stamps is None else int(stamps[: PICTURES + 1].min()) * Fraction(stream.time_base)
            return FrameIndex(
                width,
                height,
                Orientation() if first is None else Orientation.of(first),
                aspect if 1 / _MOST_OBLONG <= aspect <= _MOST_OBLONG else 1.0,
                interlaced,
                stream.codec_context.codec.canonical_name,
                container.format.name,
                torch.from_numpy(times),
                tuple(keys.tolist()) or (0,),
                seconds,
                plan,
                int(stream.frames) or None,
                _missing(packets, stream, container.format.name),
                sound,
                zero,
                chapters,
            )
    except av.FFmpegError as error:
        raise BadSample(name, f"is broken or cut off ({error.strerror or error}); fetch it again") from error


_warned = False


def _warn_of_fields(name: str) -> None:
    """Warns once per process, because a dataset may have thousands of such files."""
    global _warned
    if not _warned:
        log.warning("%s: is interlaced, so frames show two fields woven; deinterlace it, and others like it", name)
    _warned = True


@contextmanager
def opened(path: Path, name: str) -> Iterator[Any]:
    """An open container, of a format that does not refer to other files.

    Raises:
        BadSample: the file is missing, empty or no video.
    """
    with needs_extra("video"):
        import av

    try:
        if not path.stat().st_size:
            raise BadSample(name, "is an empty file; remove it, or fetch it again")
    except OSError as error:
        raise BadSample(name, f"cannot be read: {error.strerror}") from error
    try:
        # An absolute path, because FFmpeg takes names such as "concat:a|b" for commands.
        container = av.open(str(path.absolute()), options=dict(OPTIONS), metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadSample(
            name, f"is no video that can be read, or is cut off ({reason}); fetch it again, or convert it to mp4"
        ) from error
    with container:
        yield container


def video_stream(container: Any, name: str) -> Any:
    """The first video stream of a container that is not a cover picture.

    Raises:
        BadSample: there is none.
    """
    with needs_extra("video"):
        import av

    streams = container.streams
    for stream in streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
            return stream
    what = "sound alone; read it as audio" if streams.audio else "no video stream"
    raise BadSample(name, f"holds {what}")


def _times(plan: SeekPlan, packets: Packets, stream: Any, name: str) -> tuple[np.ndarray, float]:
    """Presentation times of frames, ascending, and the duration of the video."""
    rate, unit = _rate(stream), float(stream.time_base)
    frames = len(plan.order_N)
    stamps = None if plan.counted else _stamps(plan.order_N, packets)
    # Decoders repeat some timestamps by mistake. If most are repeated, frames have no times.
    if stamps is None or len(np.unique(stamps)) < frames // 2 + 1:
        if rate is None:
            raise BadSample(name, "its frames have no times and its header gives no frame rate; convert it to mp4")
        return np.arange(frames) / rate, frames / rate
    times = (stamps - stamps[0]).astype(np.float64) * unit
    steps = np.diff(times)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1 / rate if rate else unit
    times = _ascending(times, usual)
    last = float(packets.durations[plan.order_N[-1]]) * unit
    return times, float(times[-1]) + (last if 0 < last < 10 * usual else usual)


def _stamps(order_N: np.ndarray, packets: Packets) -> np.ndarray | None:
    """Timestamps of frames. Streams with decoding timestamps only (AVI) display a frame at each of them."""
    if not (packets.pts[order_N] == NONE).any():
        return packets.pts[order_N]
    dts = packets.dts[order_N]
    return None if (dts == NONE).any() else np.sort(dts)


def _ascending(times_N: np.ndarray, usual: float) -> np.ndarray:
    """Strictly ascending times.

    Times out of order (decoding instead of presentation timestamps) are sorted, repeated ones are spread evenly up to
    the next one, and after a restart of the clock (joined streams) time continues.
    """
    if (np.diff(times_N) > 0).all():
        return times_N
    parts, offset = [], 0.0
    for part in np.split(times_N, np.flatnonzero(np.diff(times_N) < -_RESTART) + 1):
        parts.append(np.sort(part) - part.min() + offset)
        offset = float(parts[-1][-1]) + usual
    times_N = np.concatenate(parts)
    # The first of each run of equal times stays; the others are interpolated up to the next.
    fresh = np.flatnonzero(np.concatenate([[True], np.diff(times_N) > 0]))
    return np.interp(np.arange(len(times_N)), [*fresh.tolist(), len(times_N)], [*times_N[fresh].tolist(), offset])


def _rate(stream: Any) -> float | None:
    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    return next((float(rate) for rate in rates if rate and 1e-3 < rate < 1e5), None)


def _missing(packets: Packets, stream: Any, container: str) -> int:
    """Number of frames that the header declares and the file lacks."""
    declared = int(stream.frames)
    if declared and container == "avi" and (packets.dts != NONE).all():
        # The header of AVI counts frame periods, and a frame may last several.
        return max(0, declared - int(packets.dts.max()) - 1)
    timed = packets.pts != NONE
    if not timed.any():
        return max(0, declared - len(packets))
    end = int((packets.pts + packets.durations)[timed].max())
    length = float(packets.durations[timed].mean())
    if declared and stream.duration and length:
        # Edit lists drop frames; then the duration counts instead of the number.
        gap = int((stream.duration - end + min(0, int(packets.pts[timed].min()))) / length)
        is_complete = abs(declared * length - stream.duration) < 0.2 * stream.duration
        return max(0, declared - len(packets) if is_complete else min(declared - len(packets), gap)) if gap > 0 else 0
    if declared:
        return max(0, declared - len(packets))
    ends = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    rate = _rate(stream)
    if ends is None or rate is None:
        return 0
    hours, minutes, seconds = ends.groups()
    # Rounded down, and at least three, because durations in headers are rounded.
    due = (3600 * int(hours) + 60 * int(minutes) + float(seconds) - float(end * stream.time_base)) * rate
    return int(due * 0.99) if due > 2 else 0
