"""Decodes the sound of any file that FFmpeg reads, through PyAV, from beginning to end and one packet at a time.

Positions are counted in decoded samples and never taken from a header. Declared lengths serve only to detect truncated
files, once the end was reached (:mod:`.endings`).

Shapes: S samples, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrt_mm.core.errors import BadSample
from hrt_mm.core.extras import needs_extra

from .containers import audio_stream, check_layout, container_of, mono
from .endings import broken_page, declared_size, read_stream_info
from .packets import PacketIndex, read_index
from .resample import ResampleStream

SEEK_FROM_S = 30.0
"""A part that begins before this is decoded from the start of the file."""
SETTLE_S = 3.0
"""Seconds that are decoded and dropped after a seek: mp3 uses bits of earlier frames, and Opus predicts from them."""
_LENIENT = frozenset({"aac", "ac3", "asf", "dts", "eac3", "loas", "mp3", "mpeg", "mpegts", "flv", "avi"})
"""Streams that a decoder may join anywhere, and that often begin or end with other data, such as tags."""
_SIZED = frozenset({"aiff", "au", "caf", "nistsphere", "w64", "wav"})
"""Containers whose declared size tells whether they are complete. In a complete one the last packet may be short."""
_COUNTED = frozenset({"ape", "mpc", "tak", "tta", "wv"})
"""Containers that declare the number of samples."""
_SHORT_ASF = 0.05
"""Fraction by which an ASF file may be shorter than declared, because the header may be an estimate."""
_SHORT_S = 0.03
"""Seconds by which a container may be longer than its sound: times are rounded, and the first samples dropped."""
_FEW = 2
"""Packets of a lenient stream that may fail, in addition to one in twenty."""


@contextmanager
def opened(path: Path, name: str) -> Iterator[Track]:
    """The sound of a file; of several tracks the one that FFmpeg considers the best.

    Raises:
        BadSample: it has no sound that can be decoded, or ends within its header.
    """
    with container_of(path, name) as container:
        yield Track(container, path, name)


class Track:
    """The sound of an open container.

    Args:
        container: at its beginning.
        path: the file.
        name: of the sample, for messages.

    Raises:
        BadSample: none of it can be decoded, or its rate or number of channels is not supported.
    """

    def __init__(self, container: Any, path: Path, name: str) -> None:
        self._container, self.path, self.name = container, path, name
        self._stream = audio_stream(container, name)
        self._lenient = container.format.name in _LENIENT
        self._packets = self._failed = 0
        self._error = ""
        """The decoder's error on the last packet, if any."""
        self._broken = ""
        """The error that ended the packets, unless it was the end of the file."""
        self._torn = False
        """Whether the last packet is incomplete."""
        self._broken_page = broken_page(path) if container.format.name == "ogg" else None
        self._one_to_one = container.format.name.startswith("mov") and self._stream.codec_context.name == "aac"
        """Whether each packet has one frame."""
        self.length: int | None = None
        """Number of samples, once the end of the file was reached."""
        self._frames = self._decoded()
        first = next(self._frames, None)
        if first is None:
            reason = f" ({self._error or self._broken})" if self._error or self._broken else ""
            raise BadSample(name, f"has no samples that can be decoded{reason}; remove it, or fetch it again")
        self._first = first
        self.rate, self.channels = int(first.sample_rate), int(first.layout.nb_channels)
        check_layout(self.rate, self.channels, name)

    def chunks(self, first: int, count: int | None, size: int = 0) -> Iterator[np.ndarray]:
        """Samples (S,) float32 from ``first`` on, in pieces; fewer than ``count`` if the file ends earlier.

        It can be called once.

        Args:
            first: sample.
            count: samples; to the end when ``None``.
            size: not used, since pieces are packets.

        Raises:
            BadSample: the file is damaged, or is truncated and the part reaches its end.
        """
        last = None if count is None else first + count
        if first > SEEK_FROM_S * self.rate and (index := read_index(self.path, self.name)).seekable:
            for start, piece in _sought(self.path, self.name, index, first):
                yield piece[max(0, first - start) : None if last is None else last - start]
                first = start + len(piece)
                if last is not None and first >= last:
                    return
            # Whatever the seek did not give is decoded from the start, which also checks the end of the file.
        position = 0
        for piece in self._pieces():
            end = position + len(piece)
            if end > first:
                yield piece[max(0, first - position) : None if last is None else last - position]
            position = end
            if last is not None and end >= last:
                return
        self.length = position
        self._check_end()

    def _pieces(self) -> Iterator[np.ndarray]:
        """All samples at the rate of the first frame: a stream may change its rate."""
        converter: ResampleStream | None = None
        rate = self.rate
        for frame in chain([self._first], self._frames):
            if frame.sample_rate != rate:
                if converter is not None:
                    yield converter.flush().numpy()
                rate = int(frame.sample_rate)
                check_layout(rate, self.channels, self.name)
                converter = ResampleStream(rate, self.rate) if rate != self.rate else None
            piece = mono(frame)
            yield piece if converter is None else converter.feed(torch.from_numpy(piece)).numpy()
        if converter is not None:
            yield converter.flush().numpy()

    def _decoded(self) -> Iterator[Any]:
        with needs_extra("audio"):
            import av

        # Frames so far, and packets without a frame that no later packet has followed with one yet.
        given = empty = 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    self._packets += 1
                    self._torn = packet.is_corrupt
                if self._broken_page is not None and (packet.pos or 0) > self._broken_page and given:
                    raise self._page_error()
                # Read before decoding, which removes the side data.
                trimmed = packet.is_discard or packet.has_sidedata("skip_samples")
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    self._failed += 1
                    self._error = error.strerror or str(error)
                    continue
                if frames and empty:
                    self._failed, self._error, empty = self._failed + empty, "packets without sound", 0
                elif packet.size and given and self._one_to_one and not frames and not trimmed:
                    empty += 1
                if frames and self._error and given:
                    self._check_damage(frames[0])
                if frames:
                    self._error = ""
                    given += len(frames)
                yield from frames
        except av.FFmpegError as error:
            self._broken = error.strerror or str(error)
            yield from self._stream.codec_context.decode(None)

    def _check_damage(self, frame: Any) -> None:
        """Refuses a file with damage before its end, except a few packets of lenient streams.

        Raises:
            BadSample: it is damaged; names the time.
        """
        if self._lenient and self._failed <= _FEW + self._packets // 20:
            return
        where = f" before {float(frame.time):.2f} s" if frame.time is not None else ""
        raise BadSample(self.name, f"is damaged{where} ({self._error}); fetch it again")

    def _check_end(self) -> None:
        """Refuses a truncated file.

        Raises:
            BadSample: it is truncated.
        """
        assert self.length is not None
        seconds, kind = self.length / self.rate, self._container.format.name
        after = f"after {seconds:.2f} s of sound"
        declared, duration = declared_size(self.path), self._container.duration
        # Sizes of Matroska and AVI may be wrong by themselves; there, the duration must be short as well.
        is_short = not kind.startswith(("matroska", "avi")) or (
            duration is not None and seconds < duration / 1e6 - _SHORT_S
        )
        if declared is not None and declared.is_truncated(self._packets) and is_short:
            missing = f"{declared.actual:,} of {declared.declared:,} bytes are there"
            raise BadSample(self.name, f"is cut off {after}: {missing}; fetch it again")
        if self._broken:
            what = "cut off or damaged" if declared is None else "damaged"
            raise BadSample(self.name, f"is {what} {after} ({self._broken}); fetch it again")
        if kind not in _SIZED and not self._lenient and (self._error or self._torn):
            reason = self._error or "its last packet is not whole"
            raise BadSample(self.name, f"is cut off or damaged {after} ({reason}); fetch it again")
        if self._failed > _FEW + self._packets // 20:
            failed = f"{self._failed} of its {self._packets} packets cannot be decoded"
            raise BadSample(self.name, f"is damaged: {failed}; fetch it again")
        if self._broken_page is not None:
            raise self._page_error()
        self._check_duration(kind)
        if kind == "flac":
            self._check_total(self.length)

    def _page_error(self) -> BadSample:
        return BadSample(self.name, f"is damaged: its page at byte {self._broken_page:,} is broken; fetch it again")

    def _check_duration(self, kind: str) -> None:
        """Refuses a file that is shorter than declared, for formats whose decoders drop damaged parts silently."""
        declared = self._stream.duration
        if declared is None or not (kind in _COUNTED or kind == "asf"):
            return
        samples = int(declared * self._stream.time_base * self.rate)
        slack = 1 if kind in _COUNTED else round(_SHORT_ASF * samples + 0.2 * self.rate)
        if self.length is not None and self.length < samples - slack:
            there = f"{self.length:,} of {samples:,} samples are there"
            raise BadSample(self.name, f"is cut off or damaged: {there}; fetch it again")

    def _check_total(self, samples: int) -> None:
        """Refuses a FLAC file with fewer samples than declared, unless their checksum is that of the whole."""
        info = read_stream_info(self.path)
        if info is None or not any(info.md5) or samples >= info.samples:
            return
        if _md5(self.path, self.name, info.bits) != info.md5:
            there = f"{samples:,} of {info.samples:,} samples are there"
            raise BadSample(self.name, f"is cut off or damaged: {there}; fetch it again")


def _sought(path: Path, name: str, index: PacketIndex, first: int) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces from shortly before a sample on, each with its first sample, until a position is uncertain.

    The first packet after the seek must be the one that the index has at its time, and frames must follow each other
    without a gap.
    """
    with needs_extra("audio"):
        import av

    with container_of(path, name) as container:
        stream = audio_stream(container, name)
        container.seek(index.stamp_at(first - round((SETTLE_S + 1) * index.rate)), stream=stream)
        settled = position = None
        try:
            for packet in container.demux(stream):
                if settled is None and packet.size and packet.pts is not None:
                    settled = index.sample_at(packet.pts, packet.time_base) + round(SETTLE_S * index.rate)
                    if not index.holds(packet) or settled > first:
                        return
                for frame in packet.decode() if settled is not None else ():
                    if frame.pts is None or frame.sample_rate != index.rate:
                        return
                    start = index.sample_at(frame.pts, frame.time_base)
                    if start > first if position is None else start != position:
                        return
                    position = start + frame.samples
                    if position > first:
                        yield start, mono(frame)
        except av.FFmpegError:
            return


def _md5(path: Path, name: str, bits: int) -> bytes:
    """The MD5 of samples as FLAC defines it: little-endian, channels interleaved."""
    with needs_extra("audio"):
        import av

    digest, width = hashlib.md5(usedforsecurity=False), -(-bits // 8)
    with container_of(path, name) as container, suppress(av.FFmpegError):
        for frame in container.decode(audio_stream(container, name)):
            samples = frame.to_ndarray()
            if frame.format.is_planar:
                samples = samples.T.reshape(1, -1)
            # FFmpeg has the bits at the top of a wider integer; the checksum is over as few bytes as hold them.
            values = samples[0].astype("<i4") >> (8 * samples.itemsize - bits)
            digest.update(values.view(np.uint8).reshape(-1, 4)[:, :width].tobytes())
    return digest.digest()
