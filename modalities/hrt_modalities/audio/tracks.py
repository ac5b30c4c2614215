"""Decodes the sound of any file that FFmpeg reads, through PyAV, from beginning to end and in memory of a packet.

Where a sample lies is counted from what the decoder gives, never taken from a header. Lengths that headers give are not
used at all; whether something is missing at the end is judged there (:mod:`.endings`).

Shapes: S samples, C channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrt_mm.core.errors import BadSample
from hrt_mm.core.extras import needs_extra

from .containers import audio_stream, check_layout, container_of, mono
from .endings import broken_page, promise, read_stream_info
from .packets import PacketIndex, read_index
from .resample import ResampleStream

SEEK_FROM_S = 30.0
"""A part that begins before this is decoded from the start of the file."""
SETTLE_S = 3.0
"""Seconds that are decoded and dropped after a seek: mp3 borrows bits from frames before, and Opus predicts from
them."""
_LENIENT = frozenset({"aac", "ac3", "asf", "dts", "eac3", "loas", "mp3", "mpeg", "mpegts", "flv", "avi"})
"""Streams that a decoder may join anywhere, and that often begin or end with what is no sound, such as tags."""
_SIZED = frozenset({"aiff", "au", "caf", "nistsphere", "w64", "wav"})
"""Containers whose size says whether they are whole: the last packet may be cut short in one that is."""
_COUNTED = frozenset({"ape", "mpc", "tak", "tta", "wv"})
"""Containers whose header counts samples."""
_SHORT_ASF = 0.05
"""Share of its length that ASF may lack, whose header may be an estimate."""
_SHORT_S = 0.03
"""Seconds by which a container may be longer than its sound: times are rounded, and the first samples left out."""
_FEW = 2
"""Packets of such a stream that may fail, and beside them one in twenty."""


@contextmanager
def opened(path: Path, name: str) -> Iterator[Track]:
    """The sound of a file; of several tracks the one that FFmpeg takes for the best.

    Raises:
        BadSample: it holds no sound that can be decoded, or ends within its header.
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
        BadSample: none of it can be decoded, or it has a rate or a number of channels that is not read.
    """

    def __init__(self, container: Any, path: Path, name: str) -> None:
        self._container, self.path, self.name = container, path, name
        self._stream = audio_stream(container, name)
        self._lenient = container.format.name in _LENIENT
        self._packets = self._failed = 0
        self._error = ""
        """Of the last packet, where it could not be decoded."""
        self._broken = ""
        """Why there are no more packets, where that is not the end of the file."""
        self._torn = False
        """Whether the last packet ended too early."""
        self._broken_page = broken_page(path) if container.format.name == "ogg" else None
        self._one_to_one = container.format.name.startswith("mov") and self._stream.codec_context.name == "aac"
        """Whether each packet holds a frame."""
        self.length: int | None = None
        """Samples of the file, once its end was reached."""
        self._frames = self._decoded()
        first = next(self._frames, None)
        if first is None:
            reason = f" ({self._error or self._broken})" if self._error or self._broken else ""
            raise BadSample(name, f"has no samples that can be decoded{reason}; remove it, or fetch it again")
        self._first = first
        self.rate, self.channels = int(first.sample_rate), int(first.layout.nb_channels)
        check_layout(self.rate, self.channels, name)

    def chunks(self, first: int, count: int | None, size: int = 0) -> Iterator[np.ndarray]:
        """Samples (S,) float32 from ``first`` on, in pieces; fewer than asked for where the file ends before.

        It can be called once.

        Args:
            first: sample.
            count: samples; to the end when ``None``.
            size: not used: pieces are packets.

        Raises:
            BadSample: the file is damaged, or it is cut off and the part reaches its end.
        """
        last = None if count is None else first + count
        if first > SEEK_FROM_S * self.rate and (index := read_index(self.path, self.name)).seekable:
            for start, piece in _sought(self.path, self.name, index, first):
                yield piece[max(0, first - start) : None if last is None else last - start]
                first = start + len(piece)
                if last is not None and first >= last:
                    return
            # What is left, if anything, comes from decoding all: the end is judged there, and so is a wrong seek.
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
        """All of it at the rate of its first frame: a stream may change its rate on the way."""
        converter: ResampleStream | None = None
        rate = self.rate
        for frame in self._all_frames():
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

    def _all_frames(self) -> Iterator[Any]:
        yield self._first
        yield from self._frames

    def _decoded(self) -> Iterator[Any]:
        with needs_extra("audio"):
            import av

        given = hollow = 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    self._packets += 1
                    self._torn = packet.is_corrupt
                if self._broken_page is not None and (packet.pos or 0) > self._broken_page and given:
                    raise self._page_error()
                # Looked at before, since decoding takes it away.
                trimmed = packet.is_discard or packet.has_sidedata("skip_samples")
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    self._failed += 1
                    self._error = error.strerror or str(error)
                    continue
                if frames and hollow:
                    self._failed, self._error, hollow = self._failed + hollow, "packets without sound", 0
                elif packet.size and given and self._one_to_one and not frames and not trimmed:
                    hollow += 1
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
        """Refuses a file that is damaged in its midst, but for a few packets of streams that have such places.

        Raises:
            BadSample: it is; says where.
        """
        if self._lenient and self._failed <= _FEW + self._packets // 20:
            return
        where = f" before {float(frame.time):.2f} s" if frame.time is not None else ""
        raise BadSample(self.name, f"is damaged{where} ({self._error}); fetch it again")

    def _check_end(self) -> None:
        """Refuses a file that ended too early.

        Raises:
            BadSample: it is cut off.
        """
        assert self.length is not None
        seconds, kind = self.length / self.rate, self._container.format.name
        after = f"after {seconds:.2f} s of sound"
        stated = promise(self.path)
        if stated is not None and stated.broken(self._packets) and self._is_short(kind, seconds):
            missing = f"{stated.there:,} of {stated.promised:,} bytes are there"
            raise BadSample(self.name, f"is cut off {after}: {missing}; fetch it again")
        if self._broken:
            what = "cut off or damaged" if stated is None else "damaged"
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

    def _is_short(self, kind: str, seconds: float) -> bool:
        """Whether a file is shorter than it says, of kinds whose size may be wrong by itself."""
        promised = self._container.duration
        return not kind.startswith(("matroska", "avi")) or (
            promised is not None and seconds < promised / 1e6 - _SHORT_S
        )

    def _page_error(self) -> BadSample:
        return BadSample(self.name, f"is damaged: its page at byte {self._broken_page:,} is broken; fetch it again")

    def _check_duration(self, kind: str) -> None:
        """Refuses a file whose sound is shorter than its header says, of kinds that lose damaged parts silently."""
        promised = self._stream.duration
        if promised is None or not (kind in _COUNTED or kind == "asf"):
            return
        samples = int(promised * self._stream.time_base * self.rate)
        slack = 1 if kind in _COUNTED else round(_SHORT_ASF * samples + 0.2 * self.rate)
        if self.length is not None and self.length < samples - slack:
            there = f"{self.length:,} of {samples:,} samples are there"
            raise BadSample(self.name, f"is cut off or damaged: {there}; fetch it again")

    def _check_total(self, samples: int) -> None:
        """Refuses a FLAC file with fewer samples than it says, unless their checksum says that they are all."""
        info = read_stream_info(self.path)
        if info is None or not any(info.md5) or samples >= info.samples:
            return
        if _md5(self.path, self.name, info.bits) != info.md5:
            there = f"{samples:,} of {info.samples:,} samples are there"
            raise BadSample(self.name, f"is cut off or damaged: {there}; fetch it again")


def _sought(path: Path, name: str, index: PacketIndex, first: int) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces from shortly before a sample on with where they begin, as long as they are sure to be in their place.

    The first packet after the seek must be the one that has its time in the index, and all frames must follow each
    other without a gap.
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
    """The checksum that FLAC keeps of samples: little-endian, channels side by side."""
    with needs_extra("audio"):
        import av

    digest, width = hashlib.md5(usedforsecurity=False), -(-bits // 8)
    with container_of(path, name) as container, suppress(av.FFmpegError):
        for frame in container.decode(audio_stream(container, name)):
            samples = frame.to_ndarray()
            if frame.format.is_planar:
                samples = samples.T.reshape(1, -1)
            values = samples[0].astype("<i4") >> (8 * samples.itemsize - bits)
            digest.update(values.view(np.uint8).reshape(-1, 4)[:, :width].tobytes())
    return digest.digest()
