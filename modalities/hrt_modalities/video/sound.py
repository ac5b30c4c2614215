"""Reads the audio track of a video file for the audio modality.

Shapes: S samples, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrt_mm.core.errors import BadSample
from hrt_mm.core.extras import needs_extra

from ..audio import Audio
from ..audio.audio import check_waveform
from ..audio.containers import audio_stream, check_layout, mono
from ..audio.files import LONGEST_S
from ..audio.resample import resampled
from ..audio.tracks import SEEK_FROM_S
from .readers.index import opened, read_index, video_stream

_SETTLE_S = 1
"""Seconds that are decoded before a part, after a seek."""
_JITTER_S = 0.02
"""Deviations of a frame's time up to this are jitter: the frame follows the one before without a gap."""
_LEAP_S = 600
"""Gaps of more seconds come from wrong times."""


def read_sound(path: Path, name: str | None = None, begin: float = 0.0, end: float | None = None) -> Audio:
    """The sound of a file or of a part of it, its channels averaged, at the file's own rate.

    Times count from the first video frame, so that picture and sound stay in sync: if the sound begins later it is
    padded with zeros, and if it begins earlier it is cut. A part after the first half minute is found by a seek, with
    the precision of the container's times, often a millisecond.

    Args:
        path: the file.
        name: of the sample, for messages.
        begin: start of the part in seconds.
        end: end of the part in seconds; the end of the track when ``None``.

    Raises:
        BadSample: the file is missing, no video, has no audio track, or none of it can be decoded in the part.
    """
    name = name or str(path)
    if not 0 <= begin < (float("inf") if end is None else end):
        raise BadSample(name, f"a part from {begin:g} s to {end} s has no length; mend its times")
    with opened(path, name) as container:
        if not container.streams.audio:
            raise BadSample(name, "has no audio track")
        picture = video_stream(container, name)
        stream = audio_stream(container, name)
        zero = _zero(path, name, picture)
        if begin > SEEK_FROM_S:
            # Seek to an earlier packet, as audio decoders need some packets before their output is exact.
            container.seek(int((Fraction(begin) + zero - _SETTLE_S) / stream.time_base), stream=stream)
        timeline, rate = None, 0
        for frame in _frames(container, stream, name):
            if timeline is None:
                rate = int(frame.sample_rate)
                check_layout(rate, frame.layout.nb_channels, name)
                timeline = _Timeline(rate, float(zero), begin, begin + LONGEST_S if end is None else end)
            timeline.add(frame)
            if timeline.full:
                break
    if end is None and timeline is not None and timeline.full:
        raise BadSample(name, f"its audio track is longer than {LONGEST_S:g} s; read it in parts")
    waveform = np.empty(0, np.float32) if timeline is None else timeline.samples()
    if not len(waveform):
        raise BadSample(name, "none of its audio track can be decoded there")
    waveform_S = torch.from_numpy(waveform)
    check_waveform(waveform_S, name)
    return Audio(waveform_S, rate)


def _zero(path: Path, name: str, picture: Any) -> Fraction:
    """The container's time of the first displayed frame. Frames before it may lack their references after a cut."""
    with suppress(BadSample):
        zero = read_index(path, name).zero
        if zero is not None:
            return zero
    return Fraction((picture.start_time or 0) * picture.time_base)


def _frames(container: Any, stream: Any, name: str) -> Iterator[Any]:
    """The decoded frames of an audio track in order, up to the end of a truncated file.

    Raises:
        BadSample: more than a few packets cannot be decoded.
    """
    with needs_extra("video"):
        import av

    packets = failed = 0
    with suppress(av.FFmpegError):
        for packet in container.demux(stream):
            packets += 1
            try:
                frames = packet.decode()
            except av.FFmpegError:
                failed += 1
                continue
            yield from frames
    if failed > 2 + packets // 20:
        raise BadSample(name, f"its audio track is damaged: {failed} of {packets} packets cannot be decoded")


class _Timeline:
    """Collects the samples of a part frame by frame at their times, with zeros in gaps.

    Frames follow each other without a gap unless their times leave a significant one, since many containers round times
    to milliseconds. A gap of many minutes is a wrong time.

    Args:
        rate: samples per second.
        zero: time of the first video frame in seconds.
        begin: start of the part in seconds.
        end: end of the part in seconds.
    """

    def __init__(self, rate: int, zero: float, begin: float, end: float) -> None:
        self._rate, self._zero = rate, zero
        self._position, self._last = round(begin * rate), round(end * rate)
        self._expected: int | None = None
        self._parts: list[np.ndarray] = []

    @property
    def full(self) -> bool:
        """Whether the end of the part is reached."""
        return self._position >= self._last

    def add(self, frame: Any) -> None:
        """Adds the next frame."""
        piece = mono(frame)
        if frame.sample_rate != self._rate:
            piece = resampled(torch.from_numpy(piece), int(frame.sample_rate), self._rate).numpy()
        start = self._start(frame.time)
        self._expected = start + len(piece)
        if start >= self._last:
            self._position = self._last
            return
        piece = piece[max(0, self._position - start) : self._last - start]
        if len(piece):
            if start > self._position:
                self._parts.append(np.zeros(start - self._position, np.float32))
            self._parts.append(piece)
            self._position = max(start, self._position) + len(piece)

    def samples(self) -> np.ndarray:
        """(S,) float32."""
        return np.concatenate(self._parts) if self._parts else np.empty(0, np.float32)

    def _start(self, time: float | None) -> int:
        """The sample at which a frame begins."""
        expected = self._expected
        if time is None:
            return self._position if expected is None else expected
        start = round((time - self._zero) * self._rate)
        if expected is None:
            return min(start, self._position + _LEAP_S * self._rate)
        gap = start - expected
        return expected if abs(gap) <= _JITTER_S * self._rate or gap > _LEAP_S * self._rate else start
