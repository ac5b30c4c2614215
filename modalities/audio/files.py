"""Reads sound files: wav, flac, ogg, mp3 and what else libsndfile knows, whole or a part of them.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrt_mm.errors import BadSample

from .audio import MAX_RATE, MIN_RATE, Audio, check_waveform

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".sph", ".nist"})
MAX_CHANNELS = 64
_BLOCK = 1 << 20
"""Frames that are read at once, before their channels are averaged."""
_PREROLL = 0.3
"""Seconds that are decoded before a part of a file whose decoder has to settle: mp3 borrows bits from frames before,
and Opus needs 80 ms."""
_SETTLING = frozenset({"OPUS", "MPEG_LAYER_III", "MPEG_LAYER_II", "MPEG_LAYER_I"})
_CUT = re.compile(r"^\s*data\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
_STREAMED = 0x7FFF0000
"""Programs that write to a pipe cannot know the length; they put a number above this in the header."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Args:
        rate: samples a second.
        channels: how many.
        samples: of each channel.
    """

    rate: int
    channels: int
    samples: int

    def part(self, offset: float, duration: float | None) -> tuple[int, int]:
        """The first sample of a part, and how many there are; less than asked for only by rounding."""
        first = round(offset * self.rate)
        count = self.samples - first if duration is None else round(duration * self.rate)
        return first, min(count, self.samples - first)


def read_header(path: Path, name: str) -> Header:
    """The header of a file.

    Args:
        path: the file.
        name: of the sample, for messages.

    Raises:
        BadSample: the file is missing, empty, no sound or without samples.
    """
    with _opened(path, name) as file:
        return Header(file.samplerate, file.channels, file.frames)


def read_audio(path: Path, name: str, offset: float = 0.0, duration: float | None = None) -> Audio:
    """The sound of a file, or a part of it, its channels averaged. Only that part is read.

    Args:
        path: the file.
        name: of the sample, for messages.
        offset: seconds at which the part begins.
        duration: seconds that it lasts; to the end when ``None``.

    Raises:
        BadSample: the file is missing, empty, no sound, broken or cut off, its samples are not finite, or it ends
            before the part does.
    """
    check_part(offset, duration, name)
    with _opened(path, name) as file:
        header = Header(file.samplerate, file.channels, file.frames)
        first, count = part_of(header, offset, duration, name)
        waveform_S = _read(file, first, count, name)
    check_waveform(waveform_S, name)
    return Audio(waveform_S, header.rate)


def blocks(path: Path, name: str, seconds: float) -> Iterator[Audio]:
    """A file from beginning to end in blocks, for files of any length.

    Raises:
        BadSample: as :func:`read_audio`.
    """
    with _opened(path, name) as file:
        size = max(1, round(seconds * file.samplerate))
        for first in range(0, file.frames, size):
            waveform_S = _read(file, first, min(size, file.frames - first), name)
            check_waveform(waveform_S, name)
            yield Audio(waveform_S, file.samplerate)


def wav(audio: Audio, span: tuple[float, float] | None = None) -> bytes:
    """A sound, or what is heard in a span of seconds, as a wav file of 16 bits, one channel."""
    import soundfile

    file, wave_S = BytesIO(), audio.waveform_S
    if span is not None:
        first, last = (round(edge * audio.rate) for edge in span)
        wave_S = wave_S[max(0, first) : max(last, first + 1)]
    soundfile.write(file, wave_S.clamp(-1, 1).numpy(), audio.rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def check_part(offset: float, duration: float | None, name: str) -> None:
    """Checks what part is asked for.

    Raises:
        BadSample: the offset is negative or the duration not above 0.
    """
    if not 0 <= offset < float("inf"):
        raise BadSample(name, f"offset is {offset} s; it must be 0 or more")
    if duration is not None and not 0 < duration < float("inf"):
        raise BadSample(name, f"duration is {duration} s; it must be more than 0, or absent for all that follows")


def part_of(header: Header, offset: float, duration: float | None, name: str) -> tuple[int, int]:
    """First sample and number of samples of a part.

    Raises:
        BadSample: the file ends before the part does.
    """
    first, count = header.part(offset, duration)
    length = header.samples / header.rate
    if count <= 0:
        raise BadSample(name, f"a part from {offset:g} s has no samples: the file lasts {length:.4f} s")
    # Times in tables are rounded; a tenth of a second past the end is no other file.
    if duration is not None and offset + duration > length + 0.1:
        raise BadSample(
            name,
            f"a part from {offset:g} s to {offset + duration:g} s leads past the end of the file at {length:.4f} s; "
            "mend its offset and duration",
        )
    return first, count


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Any]:
    import soundfile

    try:
        if not path.stat().st_size:
            raise BadSample(name, "is an empty file; remove it, or fetch it again")
        file = soundfile.SoundFile(str(path))
    except OSError as error:
        raise BadSample(name, f"cannot be read: {error.strerror}") from error
    except soundfile.LibsndfileError as error:
        raise BadSample(
            name, f"is no sound that libsndfile can read ({error.error_string}); convert it to wav or flac"
        ) from error
    with file:
        _check_header(file, name)
        try:
            yield file
        except soundfile.LibsndfileError as error:
            raise BadSample(name, f"is broken or cut off ({error.error_string}); fetch it again") from error


def _check_header(file: Any, name: str) -> None:
    cut = _CUT.search(file.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < _STREAMED:
        raise BadSample(name, f"is cut off: {cut[2]} of {cut[1]} bytes of sound are there; fetch it again")
    if file.frames <= 0:
        raise BadSample(name, "has no samples; remove it, or record it again")
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        raise BadSample(name, f"has {file.samplerate} samples a second; rates go from {MIN_RATE} to {MAX_RATE}")
    if file.channels > MAX_CHANNELS:
        raise BadSample(name, f"has {file.channels} channels; at most {MAX_CHANNELS} are read")


def _read(file: Any, first: int, count: int, name: str) -> Tensor:
    preroll = round(_PREROLL * file.samplerate) if file.subtype in _SETTLING else 0
    waveform_S = np.empty(count, dtype=np.float32)
    done = 0
    while done < count:
        # In one call: soundfile seeks after each one, and then the decoder has to settle again.
        early = min(first + done, preroll)
        file.seek(first + done - early)
        wanted = min(_BLOCK, count - done)
        block_SC = file.read(early + wanted, dtype="float32", always_2d=True)[early:]
        if not len(block_SC):
            raise BadSample(name, f"is cut off: {first + done} of {file.frames} samples are there; fetch it again")
        if block_SC.shape[1] == 1:
            waveform_S[done : done + len(block_SC)] = block_SC[:, 0]
        else:
            np.mean(block_SC, axis=1, out=waveform_S[done : done + len(block_SC)])
        done += len(block_SC)
    return torch.from_numpy(waveform_S)
