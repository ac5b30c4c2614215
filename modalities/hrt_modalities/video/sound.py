"""The audio track of a video file, as the audio modality takes it.

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
"""Seconds that are decoded before a part after a seek."""
_JITTER_S = 0.02
"""Seconds by which the time of a frame may be off and the frame follow the one before without a gap."""
_LEAP_S = 600
"""A gap of more seconds is a broken time."""


def read_sound(path: Path, name: str | None = None, begin: float = 0.0, end: float | None = None) -> Audio:
    """The sound of a file or of a part of it, its channels averaged, at the file's own rate.

    Times count from the first frame of the picture, so that picture and sound stay together: where the sound begins
    later there are zeros, and where it begins earlier that is left out. A part that begins after half a minute is found
    by a seek: its samples lie where the container's times say, which many round to a millisecond.

    Args:
        path: the file.
        name: what messages call it.
        begin: seconds at which the part begins.
        end: seconds at which it ends; with the track when ``None``.

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
            # Earlier: decoders of sound need some packets to settle.
            container.seek(int((Fraction(begin) + zero - _SETTLE_S) / stream.time_base), stream=stream)
        line, rate = None, 0
        for frame in _frames(container, stream, name):
            if line is None:
                rate = int(frame.sample_rate)
                check_layout(rate, frame.layout.nb_channels, name)
                line = _Line(rate, float(zero), begin, begin + LONGEST_S if end is None else end)
            line.lay(frame)
            if line.full:
                break
    if end is None and line is not None and line.full:
        raise BadSample(name, f"its audio track is longer than {LONGEST_S:g} s; read it in parts")
    waveform = np.empty(0, np.float32) if line is None else line.samples()
    if not len(waveform):
        raise BadSample(name, "none of its audio track can be decoded there")
    waveform_S = torch.from_numpy(waveform)
    check_waveform(waveform_S, name)
    return Audio(waveform_S, rate)


def _zero(path: Path, name: str, picture: Any) -> Fraction:
    """The container's time of the first frame that is shown; a cut may have left others without their references."""
    with suppress(BadSample):
        zero = read_index(path, name).zero
        if zero is not None:
            return zero
    return Fraction((picture.start_time or 0) * picture.time_base)


def _frames(container: Any, stream: Any, name: str) -> Iterator[Any]:
    """The decoded frames of an audio track in order. A film that ends too early is used as far as it goes.

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


class _Line:
    """Samples of a part, laid down frame by frame at their times: zeros where there is none.

    Frames follow each other without a gap unless their times leave a real one, since many containers round times to
    milliseconds. A leap of many minutes is a broken time.

    Args:
        rate: samples a second.
        zero: time of the first picture in seconds.
        begin: seconds at which the part begins.
        end: seconds at which it ends.
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

    def lay(self, frame: Any) -> None:
        """The next frame."""
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
        expected = self._expected
        if time is None:
            return self._position if expected is None else expected
        start = round((time - self._zero) * self._rate)
        if expected is None:
            return min(start, self._position + _LEAP_S * self._rate)
        off = start - expected
        return expected if abs(off) <= _JITTER_S * self._rate or off > _LEAP_S * self._rate else start
