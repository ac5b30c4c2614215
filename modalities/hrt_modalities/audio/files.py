"""Reads sound files or parts of them: wav through libsndfile, all others through FFmpeg.

Lengths in headers are not relied on: files are read to their end in blocks, and memory grows with what is read. Missing
samples at the end are an error.

Shapes: S samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch

from hrt_mm.core.errors import BadSample
from hrt_mm.core.extras import needs_extra

from .audio import Audio, check_waveform
from .packets import read_index
from .plain import Plain, open_rare, open_wav
from .tracks import Track, opened

SUFFIXES = frozenset(
    {
        ".3ga", ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".awb", ".caf", ".eac3",
        ".flac", ".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".mp4", ".nist", ".oga", ".ogg", ".opus", ".rf64", ".snd",
        ".sph", ".spx", ".tta", ".w64", ".wav", ".wave", ".webm", ".weba", ".wma", ".wv",
    }
)  # fmt: skip
"""Suffixes of sound files in folders. Files with other suffixes are read if a table or a command names them."""
LONGEST_S = 86_400.0
"""Default limit in seconds of a sound that is read at once: a few bytes can decode to days."""
_SLACK_S = 0.1
"""Seconds by which a part may exceed the file: times in tables are rounded, and codecs pad the last packet."""


@dataclass(frozen=True)
class Header:
    """Properties of a file, without decoding it.

    Args:
        rate: samples per second.
        channels: their number.
        samples: per channel; for compressed formats (AAC, WMA, ...) exact to a packet, since only decoding shows what
            is trimmed at the ends.
    """

    rate: int
    channels: int
    samples: int


def read_header(path: Path, name: str) -> Header:
    """Rate, channels and length of a file, without decoding it: see :mod:`.packets`.

    Args:
        path: the file.
        name: of the sample, for messages.

    Raises:
        BadSample: the file is missing, empty, no sound or without samples.
    """
    check_file(path, name)
    try:
        plain = open_wav(path, name)
        if plain is None:
            index = read_index(path, name)
            return Header(index.rate, index.channels, index.samples)
    except BadSample as error:
        plain = open_rare(path, name)
        if plain is None:
            raise
        error.__traceback__ = None
    with plain:
        samples = plain.length or sum(len(chunk) for chunk in plain.chunks(0, None))
        return Header(plain.rate, plain.channels, samples)


def read_audio(
    path: Path, name: str, offset: float = 0.0, duration: float | None = None, longest: float | None = None
) -> Audio:
    """The sound of a file, or a part of it, its channels averaged.

    Args:
        path: the file.
        name: of the sample, for messages.
        offset: seconds at which the part begins.
        duration: of the part in seconds; to the end when ``None``.
        longest: limit in seconds, beyond which nothing is read; :data:`LONGEST_S` when ``None``.

    Raises:
        BadSample: the file is missing, empty, no sound, damaged or cut off, its samples are not finite, it ends before
            the part does, or the part is too long.
    """
    check_part(offset, duration, name)
    check_file(path, name)
    longest = LONGEST_S if longest is None else longest
    if duration is not None and duration > longest:
        raise too_long(name, duration, longest)
    with _opened(path, name) as source:
        first = round(offset * source.rate)
        limit = int(longest * source.rate)
        # One sample more shows that a sound is too long.
        count = limit + 1 if duration is None else max(1, round(duration * source.rate))
        try:
            chunks = list(source.chunks(first, count))
            waveform_S = torch.from_numpy(np.concatenate(chunks) if chunks else np.empty(0, np.float32))
        except MemoryError:
            raise BadSample(name, "does not fit into memory; read it in parts") from None
        if duration is None and len(waveform_S) > limit:
            raise too_long(name, None, longest)
        if not len(waveform_S) or (duration is not None and len(waveform_S) < count):
            length = first + len(waveform_S) if source.length is None else source.length
            _check_within(length, source.rate, len(waveform_S), offset, duration, name)
        rate = source.rate
    check_waveform(waveform_S, name)
    return Audio(waveform_S, rate)


def blocks(path: Path, name: str, seconds: float) -> Iterator[Audio]:
    """A file from beginning to end in blocks, for files of any length.

    Raises:
        BadSample: as :func:`read_audio`.
    """
    check_file(path, name)
    with _opened(path, name) as source:
        size = max(1, round(seconds * source.rate))
        pending: list[np.ndarray] = []
        count, is_empty = 0, True
        for chunk in source.chunks(0, None, size):
            pending.append(chunk)
            count += len(chunk)
            if count >= size:
                joined = np.concatenate(pending)
                for first in range(0, count - size + 1, size):
                    is_empty = False
                    yield _block(joined[first : first + size], source.rate, name)
                # A copy, which does not keep the rest of the chunk in memory.
                pending = [joined[count - count % size :].copy()]
                count %= size
        if count or is_empty:
            yield _block(np.concatenate(pending) if pending else np.empty(0, np.float32), source.rate, name)


def wav(audio: Audio, span: tuple[float, float] | None = None) -> bytes:
    """A sound, or what is heard in a span of seconds, as a wav file of 16 bits, one channel."""
    with needs_extra("audio"):
        import soundfile

    file, wave_S = BytesIO(), audio.waveform_S
    if span is not None:
        first, last = (round(edge * audio.rate) for edge in span)
        wave_S = wave_S[max(0, first) : max(last, first + 1)]
    soundfile.write(file, wave_S.clamp(-1, 1).numpy(), audio.rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def check_part(offset: float, duration: float | None, name: str) -> None:
    """Checks the times of a part.

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
    first = round(offset * header.rate)
    count = header.samples - first if duration is None else round(duration * header.rate)
    count = min(count, header.samples - first)
    _check_within(header.samples, header.rate, count, offset, duration, name)
    return first, count


def check_file(path: Path, name: str) -> None:
    """Checks that a file can be opened and is not empty.

    Raises:
        BadSample: it cannot, or is.
    """
    try:
        if not path.is_file():
            # Opening a pipe or a device could block.
            path.stat()
            raise BadSample(name, "cannot be read: it is not a file")
        if not path.stat().st_size:
            raise BadSample(name, "is an empty file; remove it, or fetch it again")
        with path.open("rb"):
            pass
    except OSError as error:
        raise BadSample(name, f"cannot be read: {error.strerror}") from error


def too_long(name: str, seconds: float | None, longest: float) -> BadSample:
    """The error for a sound beyond the limit.

    Args:
        name: of the sample.
        seconds: its duration, if known.
        longest: the limit in seconds.
    """
    lasts = "is" if seconds is None else f"lasts {seconds:.1f} s,"
    return BadSample(name, f"{lasts} longer than modality.max_seconds {longest:g}; raise it or read the sound in parts")


def _check_within(length: int, rate: int, count: int, offset: float, duration: float | None, name: str) -> None:
    seconds = length / rate
    if not length:
        raise BadSample(name, "has no samples; remove it, or record it again")
    if count <= 0:
        raise BadSample(name, f"a part from {offset:g} s has no samples: the file lasts {seconds:.4f} s")
    if duration is not None and offset + duration > seconds + _SLACK_S:
        raise BadSample(
            name,
            f"a part from {offset:g} s to {offset + duration:g} s leads past the end of the file at {seconds:.4f} s; "
            "mend its offset and duration",
        )


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Plain | Track]:
    with ExitStack() as stack:
        source: Plain | Track | None = open_wav(path, name)
        if source is None:
            try:
                source = stack.enter_context(opened(path, name))
            except BadSample:
                source = open_rare(path, name)
                if source is None:
                    raise
        if isinstance(source, Plain):
            stack.enter_context(source)
        yield source


def _block(waveform_S: np.ndarray, rate: int, name: str) -> Audio:
    samples_S = torch.from_numpy(waveform_S)
    check_waveform(samples_S, name)
    return Audio(samples_S, rate)
