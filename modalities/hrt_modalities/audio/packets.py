"""The length of a sound and the times of its packets, from a walk over the packets without decoding them.

Lengths in headers are not used: they may be absent, estimated or wrong. The walk takes a thousandth of the sound's
duration at most, and its result is cached as long as the file stays the same.

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
"""Decoders that, some packets after a seek, give the same samples as when they decode from the start."""
_CACHED_PACKETS = 4_000_000
"""Packets of all indices in the cache, of 16 bytes each."""
_FRAME = 8192
"""Samples that a decoder may omit from its first frame, or return with the next."""
_LONGEST_PACKET_S = 60.0
_LONGEST_PACKETS_S = {"opus": 0.12, "vorbis": 1.024}
"""By codec, the longest packet in seconds; a longer duration is wrong."""


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """The packets of a file.

    Args:
        rate: samples per second of the first frame.
        channels: of the first frame.
        samples: per channel, by the durations of the packets. Decoding may give up to a packet more or fewer at the
            ends, which codecs pad or trim without the container declaring it.
        origin: time of the first sample that is decoded, in samples.
        time_base: unit of the packets' times, in seconds.
        stamps_N: times of packets, int64; empty if seeks are not exact.
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
        """Whether a part may be read by a seek."""
        return len(self.stamps_N) > 0

    def stamp_at(self, sample: int) -> int:
        """The time of a sample, in units of the packets' times."""
        return int((sample + self.origin) / (self.rate * self.time_base))

    def sample_at(self, stamp: int, time_base: Fraction) -> int:
        """The sample at a time; the time base may be that of packets or of frames."""
        return round(stamp * time_base * self.rate) - self.origin

    def holds(self, packet: Any) -> bool:
        """Whether the packet at this time has this content. PCM is cut into packets anywhere, so any packet matches."""
        if not len(self.prints_N):
            return True
        index = int(np.searchsorted(self.stamps_N, packet.pts))
        return (
            index < len(self.stamps_N)
            and int(self.stamps_N[index]) == packet.pts
            and int(self.prints_N[index]) == zlib.crc32(bytes(packet))
        )


def read_index(path: Path, name: str) -> PacketIndex:
    """The packets of a file, cached as long as its size and modification time stay the same.

    Raises:
        BadSample: the file is missing, or no sound in it can be decoded.
    """
    return _INDICES.get(path, name, lambda: _read(path, name))


_INDICES: FileCache[PacketIndex] = FileCache(lambda index: 32 + len(index.stamps_N), _CACHED_PACKETS)


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
            # The reader reports what is missing.
            walk.flush()
        index = walk.index(name)
    return index if walk.sure else replace(index, samples=_counted(path, name))


def _counted(path: Path, name: str) -> int:
    """Number of samples that can be decoded."""
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
    """Collects the times of packets.

    Args:
        kind: FFmpeg's name of the container.
        stream: of the packets.
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
        """Whether the times of packets are consistent. In a long file, one at each end may have none."""
        return not self._doubtful and (not self._timeless or 2 >= self._timeless < self._packets // 20)

    def add(self, packet: Any) -> None:
        """Adds a packet; the last one is empty."""
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
            # A header may declare longer packets than there are.
            declared = float(duration * self._base) * self._first.sample_rate
            self._doubtful |= declared > 2 * self._first.samples + _FRAME
            self._gathering = self._gathering and not self._doubtful
        # The first packet of Vorbis gives no samples: each block overlaps with the one before.
        if not lost and (self._first is not None or self._stream.codec_context.name != "vorbis"):
            self._sum += duration
        if packet.has_sidedata("skip_samples"):
            begin, end = struct.unpack_from("<II", bytes(packet.get_sidedata("skip_samples")))
            # In Opus, and where more than the packet is to be dropped, the duration excludes the end already.
            excluded = (
                self._stream.codec_context.name.endswith("opus") or end > duration * self._base * self._stream.rate
            )
            self._skipped += begin if excluded else begin + end
        if packet.pts is None:
            self._gathering = False
            return
        if self._begin is None:
            self._begin = self._end = packet.pts
        self._doubtful |= packet.pts < self._end - 1
        # After a gap, or a time that goes back, times no longer give the positions of samples.
        self._gathering = self._gathering and packet.pts == self._end
        if self._gathering:
            self._stamps.append(packet.pts)
            if not self._plain:
                self._prints.append(zlib.crc32(bytes(packet)))
        self._end = packet.pts + duration

    def flush(self) -> None:
        """Decodes what is left of a truncated stream."""
        self._decode(None)

    def index(self, name: str) -> PacketIndex:
        """The index of the packets so far.

        Raises:
            BadSample: no packet could be decoded, or the rate or number of channels is not supported.
        """
        first, base = self._first, self._base
        if first is None:
            raise BadSample(name, "has no samples that can be decoded; remove it, or fetch it again")
        rate, channels = int(first.sample_rate), int(first.layout.nb_channels)
        check_layout(rate, channels, name)
        # If the unit of times is coarser than a sample (a millisecond in Matroska), durations are rounded.
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

    def _decode(self, packet: Any) -> bool:
        """Decodes until there is a first frame; false if a packet cannot be decoded."""
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
