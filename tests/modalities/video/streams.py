"""Small video streams of many codecs, containers and structures, whose frames carry their number in their pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream

SIZE = (48, 64)
FRAMES = 60
_X265 = "log-level=0:pools=1:frame-threads=1:keyint=12:min-keyint=12"


CONTAINERS: dict[str, tuple[str, dict[str, str]]] = {
    "mp4": ("mp4", {}),
    "fragmented mp4": ("mp4", {"movflags": "frag_keyframe"}),
    "fragmented mp4, empty moov": ("mp4", {"movflags": "frag_keyframe+empty_moov"}),
    "mov": ("mov", {}),
    "mkv": ("mkv", {}),
    "webm": ("webm", {}),
    "avi": ("avi", {}),
    "ts": ("ts", {}),
    "mpg": ("mpg", {}),
    "wmv": ("wmv", {}),
}
_MP4 = ("mp4", "fragmented mp4", "fragmented mp4, empty moov")
_ALL = (*_MP4, "mov", "mkv", "avi", "ts")


@dataclass(frozen=True)
class Kind:
    """What a stream is encoded by.

    Args:
        codec: an encoder of FFmpeg.
        containers: those that take it.
        options: of the encoder.
        bframes: the most in a row; the encoder's default when ``None``.
        pixels: the pixel format.
    """

    codec: str
    containers: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)
    bframes: int | None = None
    pixels: str = "yuv420p"


_ALT = {"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "10"}
KINDS = {
    "h264": Kind("libx264", (*_ALL, "mpg", "wmv"), {"preset": "veryfast"}, 2),
    "h264, no B-frames": Kind("libx264", _ALL, {"preset": "ultrafast"}, 0),
    "h264, pyramid": Kind("libx264", _ALL, {"x264-params": "bframes=5:b-pyramid=normal:keyint=20"}),
    "h264, open GOP": Kind("libx264", _ALL, {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12"}),
    "h264, intra refresh": Kind("libx264", _ALL, {"x264-params": "intra-refresh=1:keyint=12:scenecut=0"}),
    "h264, interlaced": Kind("libx264", ("mp4", "mkv", "ts"), {"x264-params": "interlaced=1:keyint=12"}),
    "hevc, open GOP": Kind("libx265", (*_MP4, "mov", "mkv", "ts"), {"preset": "ultrafast", "x265-params": _X265}),
    "hevc, closed GOP": Kind(
        "libx265", (*_MP4, "mov", "mkv", "ts"), {"preset": "ultrafast", "x265-params": f"{_X265}:open-gop=0"}
    ),
    "mpeg1": Kind("mpeg1video", ("mkv", "avi", "mpg"), {}, 2),
    "mpeg2, open GOP": Kind("mpeg2video", (*_ALL, "mpg"), {}, 2),
    "mpeg2, closed GOP": Kind("mpeg2video", (*_ALL, "mpg"), {"flags": "+cgop", "sc_threshold": "1000000000"}, 2),
    "mpeg4": Kind("mpeg4", (*_ALL, "wmv"), {}, 2),
    "mpeg4, no B-frames": Kind("mpeg4", _ALL, {}, 0),
    "vp8, hidden frames": Kind("libvpx", ("mkv", "webm", "avi"), {**_ALT, "arnr-maxframes": "5"}),
    "vp9": Kind("libvpx-vp9", (*_MP4, "mkv", "webm", "avi"), _ALT),
    "av1": Kind(
        "libsvtav1", (*_MP4, "mkv", "webm", "avi"), {"preset": "12", "svtav1-params": "keyint=12:lp=1:irefresh-type=2"}
    ),
    "av1, open GOP": Kind(
        "libsvtav1", ("mp4", "mkv", "webm"), {"preset": "12", "svtav1-params": "keyint=12:lp=1:irefresh-type=1"}
    ),
    "mjpeg": Kind("mjpeg", (*_MP4, "mov", "mkv", "avi"), {}, None, "yuvj420p"),
    "ffv1": Kind("ffv1", ("mkv", "avi"), {"context": "1"}),
    "prores": Kind("prores_ks", ("mov", "mkv"), {}, None, "yuv422p10le"),
    "wmv2": Kind("wmv2", ("wmv", "avi")),
}


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3): a square that moves over a background that brightens, and the number in bits at the bottom."""
    pixels = np.full((*size, 3), 30 + 3 * number % 200, np.uint8)
    pixels[:8, :8] = (255, 0, 0)
    left = 3 * number % (size[1] - 12)
    pixels[20:32, left : left + 12] = (40, 220, 90)
    for bit in range(8):
        pixels[-8:, 8 * bit : 8 * bit + 8] = 235 if number >> bit & 1 else 20
    return pixels


def number_of(pixels_HW3: np.ndarray) -> int:
    """The number that a frame carries."""
    return sum(int(pixels_HW3[-6:-2, 8 * bit + 2 : 8 * bit + 6].mean() > 128) << bit for bit in range(8))


def steady(number: int) -> int:
    """Milliseconds of a frame at 25 frames a second."""
    return 40 * number


def varied(number: int) -> int:
    """Milliseconds of a frame at a rate that varies, with a pause."""
    return 50 * number + 10 * (number % 3) + (400 if number > 30 else 0)


def encode(
    path: Path,
    kind: Kind,
    *,
    frames: int = FRAMES,
    every: int = 12,
    times: Callable[[int], int] = steady,
    options: dict[str, str] | None = None,
    format: str | None = None,
    aspect: Fraction | None = None,
) -> Path:
    """Writes a stream.

    Args:
        path: the file.
        kind: what encodes it.
        frames: how many.
        every: frames from one key frame to the next.
        times: milliseconds of each frame.
        options: of the container.
        format: FFmpeg's name of the container; told by the suffix when absent.
        aspect: width of a pixel over its height.
    """
    with av.open(str(path), "w", format=format, container_options=options or {}) as container:
        stream = container.add_stream(kind.codec, rate=25, options=dict(kind.options))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = SIZE
        stream.pix_fmt = kind.pixels
        context = stream.codec_context
        context.gop_size, context.thread_count = every, 1
        if times is not steady:
            context.time_base = Fraction(1, 1000)
        if kind.bframes is not None:
            context.max_b_frames = kind.bframes
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number), "rgb24")
            frame.pts, frame.time_base = times(number), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copied(
    source: Path,
    path: Path,
    change: Callable[[int, Any], bool | None] | None = None,
    *,
    first: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Copies packets without decoding them.

    Args:
        source: where from.
        path: where to.
        change: gets the place of a packet and the packet, and may change it; ``False`` leaves it out.
        first: the packet that the copy begins with.
        options: of the container.
    """
    with av.open(str(source)) as read, av.open(str(path), "w", container_options=options or {}) as written:
        stream = read.streams.video[0]
        copy = written.add_stream_from_template(stream)
        for index, packet in enumerate(read.demux(stream)):
            if not packet.size or index < first:
                continue
            packet.stream = copy
            if change is None or change(index, packet) is not False:
                written.mux(packet)
    return path


def keys(path: Path) -> list[int]:
    """Places of the packets that the container flags as key frames."""
    with av.open(str(path)) as container:
        return [index for index, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe]


def truth(path: Path) -> list[np.ndarray]:
    """All frames (H, W, 3) by PyAV's own decoding from the beginning; it goes on after errors."""
    result: list[np.ndarray] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            try:
                result += [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
            except av.FFmpegError:
                continue
    return result


def overwritten(path: Path, at: int, data: bytes) -> Path:
    """A file with some bytes put in place of others."""
    raw = bytearray(path.read_bytes())
    raw[at : at + len(data)] = data
    path.write_bytes(raw)
    return path


def shuffled(count: int) -> Sequence[int]:
    """All numbers in an order that is the same each time."""
    return np.random.default_rng(0).permutation(count).tolist()
