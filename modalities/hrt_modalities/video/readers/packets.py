"""The packets of a video stream and the frames that they decode to, in presentation order.

If the bitstream and the timestamps are consistent, frames follow from the packets without decoding. Otherwise the
stream is decoded once, and its frames are the output in order.

Shapes: P packets in decoding order, N frames in presentation order, E entry points.
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

from .entries import ADVANCED, parser_for

NONE = -(1 << 63)
"""Stands for a missing timestamp."""
PICTURES = 20
"""Limit of the distance between decoding and presentation order (16 in H.264 and HEVC); timestamps beyond are wrong."""
_CHECKED = 8
"""Reordered frames that are decoded to check that they are output in the order of their timestamps."""
_BY_FIELDS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
"""Containers that have both fields of an interlaced frame in one packet, whatever the codec."""


@dataclass(frozen=True, eq=False)
class SeekPlan:
    """The mapping between the frames and the packets of a stream, for seeks.

    Args:
        order_N: the packet of each frame.
        sums_P: CRC-32 of each packet's data.
        entries_E: packets at which decoding may start, ascending.
        firsts_E: the frame of each entry point.
        stamps_E2: presentation and decoding timestamps of each entry point; ``NONE`` if missing.
        predicted: the frames follow from the bitstream and the timestamps, without decoding.
        counted: frames have numbers but no packets, because some packets have several.
        headless: the stream begins within a group of pictures, so frames before a key frame lack references.
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
        """The frame of each packet; -1 if none is displayed."""
        frames = np.full(len(self.sums_P), -1, np.int32)
        frames[self.order_N] = np.arange(len(self.order_N), dtype=np.int32)
        return frames

    @cached_property
    def _latest_P(self) -> np.ndarray:
        """The last frame in presentation order among those of the packets up to each one."""
        return np.maximum.accumulate(self.frames_P)

    def latest(self, frame: int) -> int:
        """The last frame in presentation order of those decoded no later than this one, which may refer to them."""
        return frame if self.counted else int(self._latest_P[self.order_N[frame]])

    def entry(self, frame: int) -> int:
        """The last entry point from which a frame is decoded exactly; -1 for the beginning of the stream."""
        position = int(np.searchsorted(self.entries_E, self.order_N[frame], "right")) - 1
        # Leading pictures refer to frames before the entry point that they follow.
        while position >= 0 and self.firsts_E[position] > frame:
            position -= 1
        return position


class Packets:
    """The timestamps, flags and checksums of packets with data.

    They are arrays, because a video of some hours has hundreds of thousands of packets.
    """

    def __init__(self) -> None:
        self._pts, self._dts, self._durations = array("q"), array("q"), array("q")
        self._sums, self._parameters = array("I"), array("I")
        self._keys, self._entries, self._displayed = bytearray(), bytearray(), bytearray()
        self.regular = True
        self.headless = False

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def of(cls, container: Any, stream: Any) -> Packets:
        """The packets of a stream, as far as it can be read."""
        with needs_extra("video"):
            import av

        packets = cls()
        codec = stream.codec_context.codec
        parse = parser_for(codec.canonical_name, bytes(stream.codec_context.extradata or b""), intra=codec.intra_only)
        packets.regular = parse is not None
        with suppress(av.FFmpegError):
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                data = memoryview(packet)
                info = parse(data, packet.is_keyframe) if parse is not None else None
                packets.headless |= not len(packets) and info is not None and not info.entry
                packets._pts.append(NONE if packet.pts is None else packet.pts)
                packets._dts.append(NONE if packet.dts is None else packet.dts)
                packets._durations.append(packet.duration or 0)
                packets._sums.append(zlib.crc32(data))
                packets._keys.append(packet.is_keyframe)
                discarded = packet.is_discard
                packets._entries.append(info is not None and info.entry and not discarded)
                packets._displayed.append(not discarded and (info is None or info.displayed))
                packets._parameters.append(info.parameters if info is not None else 0)
                packets.regular &= info is None or info.regular
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
        """(P,) bool: key frames by the container's flag."""
        return np.array(self._keys, bool)

    @cached_property
    def entries(self) -> np.ndarray:
        """(P,) bool: decoding may start here."""
        entries = np.array(self._entries, bool)
        parameters = np.array(self._parameters, np.uint32)
        if parameters.any() and len(np.unique(parameters[entries])) > 1:
            # Parameter sets change within the stream: decoding can start only at packets that have them.
            entries &= parameters > 0
        return entries

    @cached_property
    def displayed(self) -> np.ndarray:
        """(P,) bool: neither hidden by the codec nor cut by an edit list."""
        return np.array(self._displayed, bool)

    @property
    def sums(self) -> np.ndarray:
        """(P,) uint32 CRC-32 of the data."""
        return np.array(self._sums, np.uint32)

    @property
    def reordered(self) -> bool:
        """Whether decoding order differs from presentation order."""
        return bool((np.diff(self.pts[self.displayed]) < 0).any())

    def predicted(self) -> np.ndarray | None:
        """(N,) the packets of frames in presentation order; ``None`` if that takes decoding."""
        packets = np.flatnonzero(self.displayed)
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
        """The plan for frames of these packets; arguments as those of :class:`SeekPlan`."""
        frames = np.full(len(self), -1, np.int32)
        frames[order_N] = np.arange(len(order_N))
        entries = np.flatnonzero(self.entries & (frames >= 0) & (not counted))
        # The first packet is the beginning, which needs no entry point.
        entries = entries[entries > 0]
        order_N, entries_E = order_N.astype(np.int32), entries.astype(np.int32)
        stamps_E2 = np.stack([self.pts[entries], self.dts[entries]], 1)
        firsts_E = frames[entries]
        return SeekPlan(order_N, self.sums, entries_E, firsts_E, stamps_E2, predicted, counted, self.headless)


UNKNOWN = 1 << 62
"""Stands for the packet of a frame whose decoder does not pass it on."""


def decoded(packets: Iterable[tuple[int, Any]], codec: Any) -> Iterator[tuple[int, Any]]:
    """Decodes packets and identifies frames by their packets, whatever their timestamps are.

    Args:
        packets: with their numbers, which replace their timestamps, as decoders copy these to frames.
        codec: the stream's codec context.

    Yields:
        The packet and PyAV's frame, in the order of output; ``None`` for a packet that cannot be decoded.
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
    """The packets with data and their numbers, as far as a stream can be read."""
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
    """Decodes from the beginning, and records the packets of output frames and the first frame."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.output: list[int] = []
        self.broken: list[tuple[int, int]] = []
        """Packets that could not be decoded, each with the number of frames output before it."""
        self.first: Any = None
        self._outputs = decoded(numbered(container, stream), stream.codec_context)

    def advance(self) -> bool:
        """Decodes until another frame is output; false at the end."""
        for packet, frame in self._outputs:
            if frame is not None:
                self.output.append(packet)
                self.first = self.first or frame
                return True
            self.broken.append((len(self.output), packet))
        return False


def make_plan(packets: Packets, container: Any, stream: Any) -> tuple[SeekPlan, Any]:
    """The plan of a stream, and its first frame.

    Args:
        packets: of the stream.
        container: opened anew.
        stream: of the container.

    Returns:
        The plan, which has no frames if none can be decoded, and PyAV's first frame or ``None``.
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
    while run.advance():
        pass
    return _as_decoded(run, packets), run.first


def _confirmed(order_N: np.ndarray, packets: Packets, run: _Run, checked: int) -> np.ndarray | None:
    """The predicted frames if decoding the first ones confirms them, else ``None``.

    In a stream that begins within a group of pictures, some frames lack their references. Only those that the decoder
    outputs count.
    """
    start = int(np.flatnonzero(packets.entries)[0])
    begin = np.flatnonzero(order_N == start)
    if not len(begin):
        return None
    doubtful_N = (np.arange(len(order_N)) < begin[0]) | (order_N < start)
    if doubtful_N.any():
        while (not run.output or run.output[-1] != start) and run.advance():
            pass
        order_N = order_N[~doubtful_N | np.isin(order_N, run.output)]
    target = len(run.output) + checked
    more = True
    while more and len(run.output) < target:
        more = run.advance()
    expected_N = order_N[~np.isin(order_N, [packet for _, packet in run.broken])]
    agrees = run.output == expected_N[: len(run.output)].tolist() and (more or len(run.output) == len(expected_N))
    return order_N if agrees else None


def _as_decoded(run: _Run, packets: Packets) -> SeekPlan:
    """The plan for frames in the order of output, with the packets that could not be decoded between them."""
    output, decoded_packets = list(run.output), set(run.output)
    if UNKNOWN in decoded_packets or len(decoded_packets) < len(output):
        return packets.plan(np.zeros(len(run.output), np.int64), counted=True)
    missing = {
        packet: position
        for position, packet in run.broken
        if output and packet not in decoded_packets and packet > output[0]
    }
    # From the last to the first, because each position counts the frames before it.
    for packet, position in sorted(missing.items(), reverse=True):
        output.insert(position, packet)
    return packets.plan(np.array(output, np.int64))
