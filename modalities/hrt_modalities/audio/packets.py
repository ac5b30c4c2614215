"""How long a sound lasts, found by walking over its packets without decoding them, and where each packet lies.

Headers that say how long a file is are not asked: the number may be absent, an estimate, or false. The walk costs a
thousandth of the sound's duration at most, and what it found is kept as long as the file stays the same.

Shapes: N packets.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hrt_mm.core.errors import BadSample
from hrt_mm.core.extras import needs_extra

from ..common.file_cache import FileCache
from .containers import audio_stream, check_layout, container_of

_SEEKABLE_FORMATS = frozenset({"aiff", "au", "caf", "flac", "mp3", "nistsphere", "ogg", "w64", "wav"})
_SEEKABLE_CODECS = frozenset({"flac", "mp3", "mp3float", "opus", "vorbis"})
"""Decoders that, some packets after a seek, give what they give when they have read all."""
_KEPT_PACKETS = 4_000_000
"""Packets of all indices that are kept in memory, 16 bytes each."""
_FRAME = 8192
"""Samples that a decoder may leave out of its first frame, or give in the next."""
_LONGEST_PACKET_S = 60.0
_LONGEST_PACKETS_S = {"opus": 0.12, "vorbis": 1.024}
"""By codec, seconds of the longest packet; one that is said to last longer has a broken time."""


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """The packets of a file.

    Args:
        rate: samples a second of its first frame.
        channels: of the same.
        samples: of each channel that its packets stand for. Decoding may give up to a packet more or fewer at the ends,
            where codecs fill up or trim what the container does not say.
        origin: time of the first sample that is decoded, in samples.
        time_base: unit of the packets' times, in seconds.
        stamps_N: times of packets, int64; empty where a seek could not be trusted.
        prints_N: checksums of packets, uint32; empty for plain samples.
    """

    rate: int
    channels: int
    samples: int
    origin: int
    time_base: Fraction
    stamps_N: np.ndarray
    prints_N: np.ndarray

    @property
    def seekable(self) -> bool:
        """Whether parts may be read without what is before them."""
        return len(self.stamps_N) > 0

    def stamp_at(self, sample: int) -> int:
        """The time of a sample, in units of the packets' times."""
        return int((sample + self.origin) / (self.rate * self.time_base))

    def sample_at(self, stamp: int, time_base: Fraction) -> int:
        """The sample that has a time; the time base may be that of packets or of frames."""
        return round(stamp * time_base * self.rate) - self.origin

    def holds(self, packet: Any) -> bool:
        """Whether the packet of this time has this content; of plain samples, cut anywhere, whether it has a time."""
        if not len(self.prints_N):
            return True
        index = int(np.searchsorted(self.stamps_N, packet.pts))
        return (
            index < len(self.stamps_N)
            and int(self.stamps_N[index]) == packet.pts
            and int(self.prints_N[index]) == zlib.crc32(bytes(packet))
        )


def read_index(path: Path, name: str) -> PacketIndex:
    """The packets of a file. It is not read again as long as its size and its time of change stay.

    Raises:
        BadSample: the file is missing, or none of it is sound that can be decoded.
    """
    return _INDICES.get(path, name, lambda: _read(path, name))


def _weight(index: PacketIndex) -> int:
    return 32 + len(index.stamps_N)


_INDICES = FileCache(_weight, _KEPT_PACKETS)


def _read(path: Path, name: str) -> PacketIndex:
    with needs_extra("audio"):
        import av

    with container_of(path, name) as container:
        stream = audio_stream(container, name)
        walk = _Walk(container.format.name, stream)
        try:
            for packet in container.demux(stream):
                walk.add(packet)
        except av.FFmpegError:
            # What is missing is for the reader to judge.
            walk.flush()
        index = walk.index(name)
    return index if walk.sure else replace(index, samples=_counted(path, name))


def _counted(path: Path, name: str) -> int:
    """Samples that decoding gives, as far as it goes."""
    with needs_extra("audio"):
        import av

    samples, rate = Fraction(0), 0
    with container_of(path, name) as container, suppress(av.FFmpegError):
        for packet in container.demux(audio_stream(container, name)):
            with suppress(av.FFmpegError):
                for frame in packet.decode():
                    rate = rate or frame.sample_rate
                    samples += Fraction(frame.samples * rate, frame.sample_rate)
    return max(1, round(samples))


class _Walk:
    """What is gathered from packet to packet.

    Args:
        kind: FFmpeg's name of the container.
        stream: whose packets they are.
    """

    def __init__(self, kind: str, stream: Any) -> None:
        self._stream, self._base = stream, Fraction(stream.time_base)
        codec = stream.codec_context.name
        self._plain = codec.startswith("pcm_")
        self._gathering = kind in _SEEKABLE_FORMATS and (codec in _SEEKABLE_CODECS or self._plain)
        self._stamps, self._prints = array("q"), array("L")
        self._first: Any = None
        self._longest_s = _LONGEST_PACKETS_S.get(codec, _LONGEST_PACKET_S)
        self._begin: int | None = None
        self._doubtful = False
        self._end = self._sum = self._skipped = self._packets = self._timeless = 0

    @property
    def sure(self) -> bool:
        """Whether packets have the times of what they hold. In a long file one without may stand at each end."""
        return not self._doubtful and (not self._timeless or 2 >= self._timeless < self._packets // 20)

    def add(self, packet: Any) -> None:
        """A packet; the last one is empty."""
        before = self._first
        lost = not self._decode(packet)
        if not packet.size:
            return
        duration = packet.duration or 0
        if not 0 < duration * self._base <= self._longest_s:
            self._timeless += 1
            duration = 0
        self._packets += 1
        if self._first is not before:
            # A header may say that packets hold more than they do.
            stated = float(duration * self._base) * self._first.sample_rate
            self._doubtful |= stated > 2 * self._first.samples + _FRAME
            self._gathering = self._gathering and not self._doubtful
        # The first packet of Vorbis only prepares the second.
        if not lost and (self._first is not None or self._stream.codec_context.name != "vorbis"):
            self._sum += duration
        if packet.has_sidedata("skip_samples"):
            self._skipped += self._trimmed(bytes(packet.get_sidedata("skip_samples")), duration)
        if packet.pts is None:
            self._gathering = False
            return
        if self._begin is None:
            self._begin = self._end = packet.pts
        self._doubtful |= packet.pts < self._end - 1
        # A gap, or a time that goes back: then samples are not where times say.
        self._gathering = self._gathering and packet.pts == self._end
        if self._gathering:
            self._stamps.append(packet.pts)
            if not self._plain:
                self._prints.append(zlib.crc32(bytes(packet)))
        self._end = packet.pts + duration

    def flush(self) -> None:
        """The end of a stream that broke off."""
        self._decode(None)

    def index(self, name: str) -> PacketIndex:
        """What was found.

        Raises:
            BadSample: no packet could be decoded, or the rate or the number of channels is not read.
        """
        first, base = self._first, self._base
        if first is None:
            raise BadSample(name, "has no samples that can be decoded; remove it, or fetch it again")
        rate, channels = int(first.sample_rate), int(first.layout.nb_channels)
        check_layout(rate, channels, name)
        # Where the unit of times is coarser than a sample (a millisecond, in Matroska), durations are rounded.
        exact = (1 / (rate * base)).denominator == 1
        length, span = self._sum * base, (self._end - (self._begin or 0)) * base
        if not exact and abs(span - length) <= length / 10 + 1:
            length = span
        seekable = self._gathering and exact and first.pts is not None
        return PacketIndex(
            rate,
            channels,
            max(1, round(length * rate) - self._skipped),
            round(first.pts * first.time_base * rate) if seekable else 0,
            base,
            np.array(self._stamps if seekable else [], np.int64),
            np.array(self._prints if seekable else [], np.uint32),
        )

    def _trimmed(self, data: bytes, duration: int) -> int:
        """Samples that the decoder drops at the beginning and at the end of a packet."""
        begin, end = struct.unpack_from("<II", data)
        # The durations of Opus are those that are left at the end; and no more than the packet can be dropped there.
        left = self._stream.codec_context.name.endswith("opus") or end > duration * self._base * self._stream.rate
        return int(begin if left else begin + end)

    def _decode(self, packet: Any) -> bool:
        """Decodes until there is a frame; whether that worked."""
        with needs_extra("audio"):
            import av

        if self._first is not None:
            return True
        try:
            frames = self._stream.codec_context.decode(packet if packet is not None and packet.size else None)
        except (av.FFmpegError, EOFError):
            return False
        self._first = next(iter(frames), None)
        return True
