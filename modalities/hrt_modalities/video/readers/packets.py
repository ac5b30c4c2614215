"""The packets of a video stream and the frames that come of them, in the order in which they are shown.

Where the bitstream and the timestamps leave no doubt, frames follow from the packets without decoding. Otherwise the
stream is decoded once: what comes out, in that order, are its frames.

Shapes: P packets in decoding order, N frames in the order in which they are shown, E entry points.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hrt_mm.core.extras import needs_extra

from .entries import ADVANCED, look_for

NONE = -(1 << 63)
"""In place of a timestamp that is absent."""
PICTURES = 20
"""Frames are shown this near to where they are stored (16 packets in H.264 and HEVC), or timestamps are broken."""
_CHECKED = 8
"""Frames that are decoded to see that they come out as their timestamps say, if they are stored in another order."""
_BY_FIELDS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
"""Containers that keep both fields of an interlaced frame in one packet, whatever the codec."""


@dataclass(frozen=True, eq=False)
class SeekPlan:
    """How the frames of a stream are found again.

    Args:
        order_N: the packet that each frame comes of.
        sums_P: CRC-32 of each packet's data.
        entries_E: packets that decoding may start at, ascending.
        firsts_E: the frame of each of these.
        stamps_E2: timestamps of presentation and of decoding of each; ``NONE`` where absent.
        predicted: whether the bitstream and the timestamps alone told the frames.
        counted: frames are known by their number alone, since some packets hold several.
        headless: the stream begins in the middle of a group of pictures: frames before a key frame lack references.
    """

    order_N: np.ndarray
    sums_P: np.ndarray
    entries_E: np.ndarray
    firsts_E: np.ndarray
    stamps_E2: np.ndarray
    predicted: bool
    counted: bool = False
    headless: bool = False

    @cached_property
    def frames_P(self) -> np.ndarray:
        """The frame that comes of each packet, -1 where none is shown."""
        frames = np.full(len(self.sums_P), -1, np.int32)
        frames[self.order_N] = np.arange(len(self.order_N), dtype=np.int32)
        return frames

    @cached_property
    def _latest_P(self) -> np.ndarray:
        """The last frame to be shown of those that are stored up to each packet."""
        return np.maximum.accumulate(self.frames_P)

    def latest(self, frame: int) -> int:
        """The last frame to be shown of those that are stored no later than this one; it may refer to all of them."""
        return frame if self.counted else int(self._latest_P[self.order_N[frame]])

    def entry(self, frame: int) -> int:
        """The last entry point that leads to a frame exactly; -1 for the beginning of the stream."""
        position = int(np.searchsorted(self.entries_E, self.order_N[frame], "right")) - 1
        # Leading pictures refer to what lies before the entry point that they follow.
        while position >= 0 and self.firsts_E[position] > frame:
            position -= 1
        return position


class Packets:
    """What is known of each packet that holds data.

    Arrays, since a video of hours has hundreds of thousands.
    """

    def __init__(self) -> None:
        self._pts, self._dts, self._durations = array("q"), array("q"), array("q")
        self._sums, self._parameters = array("I"), array("I")
        self._keys, self._entries, self._shown = bytearray(), bytearray(), bytearray()
        self.regular = True
        self.headless = False

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def of(cls, container: Any, stream: Any) -> Packets:
        """Those of a stream, as far as it can be read."""
        with needs_extra("video"):
            import av

        packets = cls()
        codec = stream.codec_context.codec
        look = look_for(codec.canonical_name, bytes(stream.codec_context.extradata or b""), intra=codec.intra_only)
        packets.regular = look is not None
        with suppress(av.FFmpegError):
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                data = memoryview(packet)
                looked = look(data, packet.is_keyframe) if look is not None else None
                packets.headless |= not len(packets) and looked is not None and not looked.entry
                packets._pts.append(NONE if packet.pts is None else packet.pts)
                packets._dts.append(NONE if packet.dts is None else packet.dts)
                packets._durations.append(packet.duration or 0)
                packets._sums.append(zlib.crc32(data))
                packets._keys.append(packet.is_keyframe)
                discarded = packet.is_discard
                packets._entries.append(looked is not None and looked.entry and not discarded)
                packets._shown.append(not discarded and (looked is None or looked.shown))
                packets._parameters.append(looked.parameters if looked is not None else 0)
                packets.regular &= looked is None or looked.regular
        return packets

    @cached_property
    def pts(self) -> np.ndarray:
        """(P,) int64 timestamps of presentation."""
        return np.array(self._pts, np.int64)

    @cached_property
    def dts(self) -> np.ndarray:
        """(P,) int64 timestamps of decoding."""
        return np.array(self._dts, np.int64)

    @cached_property
    def durations(self) -> np.ndarray:
        """(P,) int64, 0 where unknown."""
        return np.array(self._durations, np.int64)

    @cached_property
    def keys(self) -> np.ndarray:
        """(P,) bool: the container's claim of a key frame."""
        return np.array(self._keys, bool)

    @cached_property
    def entries(self) -> np.ndarray:
        """(P,) bool: decoding may start here."""
        entries = np.array(self._entries, bool)
        parameters = np.array(self._parameters, np.uint32)
        if parameters.any() and len(np.unique(parameters[entries])) > 1:
            # Parameter sets change on the way: start only where they are.
            entries &= parameters > 0
        return entries

    @cached_property
    def shown(self) -> np.ndarray:
        """(P,) bool: neither hidden by its codec nor cut off by an edit list."""
        return np.array(self._shown, bool)

    @property
    def sums(self) -> np.ndarray:
        """(P,) uint32 CRC-32 of the data."""
        return np.array(self._sums, np.uint32)

    @property
    def reordered(self) -> bool:
        """Whether frames are stored in another order than they are shown in."""
        return bool((np.diff(self.pts[self.shown]) < 0).any())

    def predicted(self) -> np.ndarray | None:
        """(N,) the packets of frames as they are shown; ``None`` where only decoding tells."""
        packets = np.flatnonzero(self.shown)
        pts = self.pts[packets]
        if not (self.regular and len(pts)) or (pts == NONE).any() or not self.entries.any():
            return None
        order = np.argsort(pts, kind="stable")
        if (np.diff(pts[order]) <= 0).any() or np.abs(order - np.arange(len(order))).max() > PICTURES:
            return None
        dts = self.dts[self.dts != NONE]
        if (np.diff(dts) < 0).any():
            return None
        return packets[order]

    def plan(self, order_N: np.ndarray, *, predicted: bool = False, counted: bool = False) -> SeekPlan:
        """How frames that come of these packets are found again; arguments as those of :class:`SeekPlan`."""
        frames = np.full(len(self), -1, np.int32)
        frames[order_N] = np.arange(len(order_N))
        entries = np.flatnonzero(self.entries & (frames >= 0) & (not counted))
        # Decoding starts at the first packet anyway.
        entries = entries[entries > 0]
        order_N, entries_E = order_N.astype(np.int32), entries.astype(np.int32)
        stamps_E2 = np.stack([self.pts[entries], self.dts[entries]], 1)
        firsts_E = frames[entries]
        return SeekPlan(order_N, self.sums, entries_E, firsts_E, stamps_E2, predicted, counted, self.headless)


UNKNOWN = 1 << 62
"""In place of the packet of a frame whose decoder does not tell it."""


def decoded(packets: Iterable[tuple[int, Any]], codec: Any) -> Iterator[tuple[int, Any]]:
    """Decodes packets, and knows frames by the packets that they come of, whatever their timestamps are.

    Args:
        packets: with their numbers, which take the place of their timestamps.
        codec: the stream's codec context.

    Yields:
        The packet and PyAV's frame, in the order in which they come out; ``None`` for a packet that cannot be decoded.
    """
    with needs_extra("video"):
        import av

    for number, packet in packets:
        packet.pts = packet.dts = number
        try:
            frames = packet.decode()
        except av.FFmpegError:
            yield number, None
            continue
        for frame in frames:
            yield (UNKNOWN if frame.pts is None else frame.pts), frame
    try:
        for frame in codec.decode(None):
            yield (UNKNOWN if frame.pts is None else frame.pts), frame
    except (av.FFmpegError, EOFError):
        return


def numbered(container: Any, stream: Any) -> Iterator[tuple[int, Any]]:
    """Packets with data and their numbers, as far as a stream can be read."""
    with needs_extra("video"):
        import av

    number = 0
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield number, packet
                number += 1
    except av.FFmpegError:
        return


class _Run:
    """Decoding from the beginning: the packets of the frames that came out so far, and the first frame."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.came: list[int] = []
        self.broken: list[tuple[int, int]] = []
        """Packets that could not be decoded, each after the frames that had come out by then."""
        self.first: Any = None
        self._outputs = decoded(numbered(container, stream), stream.codec_context)

    def go_on(self) -> bool:
        """Decodes until another frame comes out; false at the end."""
        for packet, frame in self._outputs:
            if frame is not None:
                self.came.append(packet)
                self.first = self.first or frame
                return True
            self.broken.append((len(self.came), packet))
        return False


def planned(packets: Packets, container: Any, stream: Any) -> tuple[SeekPlan, Any]:
    """The frames of a stream, and the first one.

    Args:
        packets: all of them.
        container: opened anew.
        stream: of the container.

    Returns:
        The plan, without frames where none can be decoded, and the first frame as it is decoded, or ``None``.
    """
    run = _Run(container, stream)
    order = packets.predicted()
    if order is not None:
        checked = _CHECKED if packets.reordered or stream.codec_context.has_b_frames else 1
        order = _confirmed(order, packets, run, checked)
        codec = stream.codec_context.codec.canonical_name
        fields = run.first is not None and run.first.interlaced_frame and codec in ADVANCED
        if order is not None and not (fields and container.format.name not in _BY_FIELDS):
            return packets.plan(order, predicted=True), run.first
    while run.go_on():
        pass
    return _as_decoded(run, packets), run.first


def _confirmed(order_N: np.ndarray, packets: Packets, run: _Run, checked: int) -> np.ndarray | None:
    """The frames that were predicted, if decoding the first ones agrees; ``None`` if not.

    A stream that begins in its middle has pictures without their references; only those are kept that come out.
    """
    start = int(np.flatnonzero(packets.entries)[0])
    begin = np.flatnonzero(order_N == start)
    if not len(begin):
        return None
    doubtful_N = (np.arange(len(order_N)) < begin[0]) | (order_N < start)
    if doubtful_N.any():
        while (not run.came or run.came[-1] != start) and run.go_on():
            pass
        order_N = order_N[~doubtful_N | np.isin(order_N, run.came)]
    target = len(run.came) + checked
    going = True
    while going and len(run.came) < target:
        going = run.go_on()
    expected_N = order_N[~np.isin(order_N, [packet for _, packet in run.broken])]
    agrees = run.came == expected_N[: len(run.came)].tolist() and (going or len(run.came) == len(expected_N))
    return order_N if agrees else None


def _as_decoded(run: _Run, packets: Packets) -> SeekPlan:
    """The frames as they came out, and in between the packets that could not be decoded."""
    came, decoded_packets = list(run.came), set(run.came)
    if UNKNOWN in decoded_packets or len(decoded_packets) < len(came):
        return packets.plan(np.zeros(len(run.came), np.int64), counted=True)
    missing = {
        packet: position
        for position, packet in run.broken
        if came and packet not in decoded_packets and packet > came[0]
    }
    # Later ones first: places count the frames before.
    for packet, position in sorted(missing.items(), reverse=True):
        came.insert(position, packet)
    return packets.plan(np.array(came, np.int64))
