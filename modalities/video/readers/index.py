"""What a video file holds: its frames by time, found without decoding any.

FFmpeg, through PyAV, walks over the packets of the file's video stream. So the times of frames are those that players
use, whatever the header says of rate and length, and broken files are known before a decoder meets them.

Shapes: N frames of the file.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrt_mm.errors import BadSample

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".3gp", ".ogv", ".flv", ".wmv"}
)
"""Files that are videos by their name."""
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,flv,asf,mxf,nut,ivf,h264,hevc,m4v,gif"
"""Containers that are opened. Those that name other files (playlists, concatenations) are not among them."""
OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
MAX_PIXELS = 8192 * 8192
"""Larger frames are not decoded; a small file can unpack to gigabytes."""
_MOST_SECONDS = 1e7
"""A longer video, of four months, has broken times."""
_KEPT_FRAMES = 1_000_000
"""Of the files whose index is kept in memory, 16 bytes each: training opens the same short files in every epoch."""


@dataclass(frozen=True, eq=False)
class Index:
    """The frames of a file in the order in which they are shown.

    Args:
        width: of the frames as they are stored.
        height: the same.
        rotation: degrees by which they are turned counter-clockwise to be upright: 0, 90, 180 or 270.
        codec: FFmpeg's name of it.
        container: FFmpeg's names of the format.
        times_N: seconds at which each is shown, float64; the first one at 0.
        stamps_N: the same in the stream's own unit, int64; empty where frames have no times and are counted.
        keys: frames that need none before them, ascending.
        seconds: how long the video lasts.
        promised: frames that the header speaks of, where it does.
        sound: whether there is an audio track.
        chapters: seconds at which chapters start, where the file marks them.
    """

    width: int
    height: int
    rotation: int
    codec: str
    container: str
    times_N: Tensor
    stamps_N: Tensor
    keys: tuple[int, ...]
    seconds: float
    promised: int | None
    sound: bool
    chapters: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.times_N)

    @property
    def upright(self) -> tuple[int, int]:
        """Rows and columns of the frames once they are turned."""
        return (self.width, self.height) if self.rotation % 180 else (self.height, self.width)

    @property
    def missing(self) -> int:
        """Frames that the header speaks of and that are not there."""
        return max(0, (self.promised or 0) - len(self))

    @property
    def rate(self) -> float:
        """Frames a second, on average."""
        return len(self) / self.seconds

    def at(self, seconds: float) -> int:
        """The frame that is shown at a time; the first one before it, the last one after the end."""
        # Times in tables are rounded: a frame that begins within a tenth of a millisecond is on.
        place = int(torch.searchsorted(self.times_N, seconds + 1e-4, right=True)) - 1
        return min(max(0, place), len(self) - 1)


def read_index(path: Path, name: str, max_pixels: int = MAX_PIXELS) -> Index:
    """The frames of a file. It is not read again as long as its size and its time of change stay.

    Args:
        path: the file.
        name: what messages call it.
        max_pixels: of a frame; larger ones are refused.

    Raises:
        BadSample: the file is missing, empty, no video, sound alone, without frames, or its frames are too large or
            have neither times nor a rate.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise BadSample(name, f"cannot be read: {error.strerror}") from error
    stamp = str(path.absolute()), status.st_size, status.st_mtime_ns, max_pixels
    found = _kept.get(stamp)
    if found is None:
        found = _read(path, name, max_pixels)
        _kept.put(stamp, found)
    return found


class _Kept:
    """The indices of the files that were opened last."""

    def __init__(self) -> None:
        self._indices: OrderedDict[tuple[object, ...], Index] = OrderedDict()
        self._frames = 0

    def get(self, stamp: tuple[object, ...]) -> Index | None:
        found = self._indices.get(stamp)
        if found is not None:
            self._indices.move_to_end(stamp)
        return found

    def put(self, stamp: tuple[object, ...], index: Index) -> None:
        self._indices[stamp] = index
        self._frames += len(index)
        while self._frames > _KEPT_FRAMES:
            self._frames -= len(self._indices.popitem(last=False)[1])


_kept = _Kept()


def _read(path: Path, name: str, max_pixels: int) -> Index:
    import av

    try:
        with opened(path, name) as container:
            stream = video_stream(container, name)
            size = stream.codec_context.width, stream.codec_context.height
            if min(size) < 1:
                raise BadSample(name, "its header gives no size of the frames; it is broken or cut off, fetch it again")
            if math.prod(size) > max_pixels:
                raise BadSample(name, f"{size[0]}x{size[1]} pixels a frame are more than data.max_pixels={max_pixels}")
            packets = _Packets.of(container, stream)
            times_N, stamps_N, keys, seconds = _times(packets, stream, name)
            return Index(
                *size,
                _rotation(path, name),
                stream.codec_context.codec.canonical_name,
                container.format.name,
                times_N,
                stamps_N,
                keys,
                seconds,
                _promised(stream),
                any(other.codec_context is not None for other in container.streams.audio),
                _chapters(container),
            )
    except av.FFmpegError as error:
        raise BadSample(name, f"is broken or cut off ({error.strerror or error}); fetch it again") from error


@contextmanager
def opened(path: Path, name: str) -> Iterator[Any]:
    """A container for reading, of a kind that leads to no other file.

    Raises:
        BadSample: the file is missing, empty or no video.
    """
    import av

    try:
        if not path.stat().st_size:
            raise BadSample(name, "is an empty file; remove it, or fetch it again")
    except OSError as error:
        raise BadSample(name, f"cannot be read: {error.strerror}") from error
    try:
        # An absolute path: names such as "concat:a|b" are orders to FFmpeg.
        container = av.open(str(path.resolve()), options=dict(OPTIONS), metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise BadSample(
            name, f"is no video that can be read, or is cut off ({said}); fetch it again, or convert it to mp4"
        ) from error
    with container:
        yield container


def video_stream(container: Any, name: str) -> Any:
    """The first video stream of a container that is no cover picture.

    Raises:
        BadSample: there is none.
    """
    import av

    streams = container.streams
    for stream in streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None:
            return stream
    what = "sound alone; read it as audio" if streams.audio else "no video stream"
    raise BadSample(name, f"holds {what}")


class _Packets:
    """Stamp, duration and whether it is a key frame, of each packet that holds a frame that is shown.

    Arrays, since a video of hours has hundreds of thousands.
    """

    def __init__(self) -> None:
        self.stamps, self.durations, self.keys = array("q"), array("q"), bytearray()
        self.timeless = False

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, container: Any, stream: Any) -> _Packets:
        """Those of a stream, as far as it can be read: what is missing is counted."""
        import av

        found = cls()
        with suppress(av.FFmpegError):
            for packet in container.demux(stream):
                if packet.size and not packet.is_discard:
                    found.timeless |= packet.pts is None
                    found.stamps.append(packet.pts or 0)
                    found.durations.append(packet.duration or 0)
                    found.keys.append(packet.is_keyframe)
        return found

    def in_time(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Different stamps, ascending, with the durations and keys of the last packet of each."""
        stamps, last = np.unique(np.array(self.stamps)[::-1], return_index=True)
        places = len(self) - 1 - last
        return stamps, np.array(self.durations)[places], np.frombuffer(bytes(self.keys), np.uint8)[places]


def _times(packets: _Packets, stream: Any, name: str) -> tuple[Tensor, Tensor, tuple[int, ...], float]:
    if not len(packets):
        raise BadSample(name, "has no frames; remove it, or fetch it again")
    stamps, durations, marks = packets.in_time()
    # Some repeats are decoders' slips; where most frames share a time, there is none.
    if packets.timeless or len(stamps) < len(packets) // 2 + 1:
        return _counted(len(packets), stream, name)
    unit = float(stream.time_base)
    stamps_N = torch.from_numpy(stamps)
    times_N = (stamps_N - stamps_N[0]).double() * unit
    rate = _rate(stream)
    usual = float(times_N.diff().median()) if len(stamps) > 1 else 1 / rate if rate else unit
    last = float(durations[-1]) * unit
    seconds = float(times_N[-1]) + (last if 0 < last < 10 * usual else usual)
    if not 0 < seconds < _MOST_SECONDS:
        raise BadSample(name, f"lasts {seconds:g} s by the times of its frames, which are broken; convert it to mp4")
    keys = tuple(np.flatnonzero(marks).tolist()) or (0,)
    return times_N, stamps_N, keys, seconds


def _counted(frames: int, stream: Any, name: str) -> tuple[Tensor, Tensor, tuple[int, ...], float]:
    """Times of frames that have none: by their number, at the rate of the header."""
    rate = _rate(stream)
    if rate is None:
        raise BadSample(name, "its frames have no times and its header gives no frame rate; convert it to mp4")
    times_N = torch.arange(frames, dtype=torch.float64) / rate
    return times_N, torch.empty(0, dtype=torch.int64), (0,), frames / rate


def _rate(stream: Any) -> float | None:
    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    return next((float(rate) for rate in rates if rate and 1e-3 < rate < 1e5), None)


def _chapters(container: Any) -> tuple[float, ...]:
    starts = {float(mark["start"] * mark["time_base"]) for mark in container.chapters() if mark["time_base"]}
    return tuple(sorted(start for start in starts if start >= 0))


def _promised(stream: Any) -> int | None:
    """Frames by the header: their number, or in Matroska how long the stream is."""
    if stream.frames:
        return int(stream.frames)
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    rate = _rate(stream)
    if found is None or rate is None:
        return None
    hours, minutes, seconds = found.groups()
    # Rounded down: a rate that varies must not make frames out of nothing.
    return int((3600 * int(hours) + 60 * int(minutes) + float(seconds)) * rate * 0.99)


def _rotation(path: Path, name: str) -> int:
    """What the first frame says; its side data are known once it is decoded."""
    import av

    with opened(path, name) as container:
        stream = video_stream(container, name)
        try:
            for packet in container.demux(stream):
                for frame in _decoded(packet):
                    return round(frame.rotation / 90) * 90 % 360
        except av.FFmpegError:
            pass
    return 0


def _decoded(packet: Any) -> list[Any]:
    import av

    try:
        found: list[Any] = packet.decode()
    except av.FFmpegError:
        return []
    return found
