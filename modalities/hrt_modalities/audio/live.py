"""Reads sound from a pipe: a wav stream of any length, or raw samples.

libsndfile needs to seek, which a pipe cannot. Therefore the header of wav (RIFF or RF64) is parsed here. Programs that
write to a pipe do not know the length, so a declared length only serves to detect truncation.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from hrt_mm.core.errors import BadSample, UserError

from .audio import MAX_RATE, MIN_RATE, check_waveform
from .containers import MAX_CHANNELS
from .endings import STREAMED

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_HEADER = 1 << 20
"""Limit of the bytes of other chunks before the samples."""
ENCODINGS = {"u8": (_PCM, 8), "s16": (_PCM, 16), "s24": (_PCM, 24), "s32": (_PCM, 32), "f32": (_FLOAT, 32)}
"""Raw samples, little-endian."""


@dataclass(frozen=True)
class Layout:
    """The layout of samples in bytes.

    Args:
        rate: samples per second.
        channels: interleaved.
        kind: integers (1) or floats (3).
        bits: per sample.
        length: bytes of sound, if known.
    """

    rate: int
    channels: int
    kind: int
    bits: int
    length: int | None = None

    @property
    def frame(self) -> int:
        """Bytes of a sample of all channels."""
        return self.channels * self.bits // 8

    def samples(self, data: bytes) -> Tensor:
        """(S,) float32, channels averaged."""
        x_SC = self._values(data).reshape(-1, self.channels)
        return torch.from_numpy(x_SC.mean(1, dtype=np.float32))

    def _values(self, data: bytes) -> np.ndarray:
        if self.kind == _FLOAT:
            return np.frombuffer(data, f"<f{self.bits // 8}").astype(np.float32)
        if self.bits == 8:
            return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
        if self.bits == 24:
            # The three bytes become the upper ones of a 32-bit integer.
            bytes_N3 = np.frombuffer(data, np.uint8).reshape(-1, 3)
            wide_N4 = np.zeros((len(bytes_N3), 4), np.uint8)
            wide_N4[:, 1:] = bytes_N3
            return wide_N4.view("<i4")[:, 0].astype(np.float32) / 2**31
        return np.frombuffer(data, f"<i{self.bits // 8}").astype(np.float32) / 2.0 ** (self.bits - 1)


def raw_layout(rate: int, channels: int = 1, encoding: str = "s16") -> Layout:
    """The layout of raw samples.

    Raises:
        UserError: there is no such encoding, or the numbers are out of range.
    """
    if encoding not in ENCODINGS:
        raise UserError(f"unknown encoding {encoding!r}; one of {', '.join(ENCODINGS)}")
    try:
        return _checked(Layout(rate, channels, *ENCODINGS[encoding]), "raw sound")
    except BadSample as error:
        raise UserError(str(error)) from error


def read_layout(source: BinaryIO, name: str) -> Layout:
    """Reads the header of a wav stream, up to the samples.

    Raises:
        BadSample: it is no wav, or of an unsupported kind; names the fix.
    """
    head = source.read(12)
    if not head:
        raise BadSample(name, "is empty; nothing came through the pipe")
    if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        raise BadSample(
            name, "is no wav stream; convert it (ffmpeg -i FILE -f wav -), or give --rate where it is raw samples"
        )
    layout, seen = None, 12
    while True:
        kind, size = struct.unpack("<4sI", _exactly(source, 8, name))
        seen += 8 + size
        if kind == b"data":
            break
        if seen > _HEADER:
            raise BadSample(name, f"has no sound in its first {_HEADER} bytes; is it a wav stream?")
        body = _exactly(source, size + size % 2, name)
        if kind == b"fmt ":
            layout = _format(body, name)
    if layout is None:
        raise BadSample(name, "has sound before it says of what kind; convert it again")
    return layout if size >= STREAMED or not size else Layout(**{**vars(layout), "length": size})


def live(source: BinaryIO, layout: Layout, name: str, seconds: float) -> Iterator[Tensor]:
    """Waveforms (S,) as they arrive, each of at most ``seconds``.

    Raises:
        BadSample: samples are not finite, there are none, or fewer than declared. The last two are raised at the end.
    """
    limit = max(1, round(seconds * layout.rate)) * layout.frame
    read = getattr(source, "read1", source.read)
    pending, done = b"", 0
    while True:
        left = limit if layout.length is None else min(limit, layout.length - done)
        data = read(left) if left else b""
        if not data:
            break
        done += len(data)
        pending += data
        complete = len(pending) // layout.frame * layout.frame
        if complete:
            waveform_S = layout.samples(pending[:complete])
            pending = pending[complete:]
            check_waveform(waveform_S, name)
            yield waveform_S
    if done < layout.frame:
        raise BadSample(name, "has no samples; nothing came through the pipe")
    if layout.length is not None and done < layout.length:
        raise BadSample(name, f"is cut off: {done} of {layout.length} bytes of sound came")


def _format(body: bytes, name: str) -> Layout:
    if len(body) < 16:
        raise BadSample(name, "has a wav header that is too short; convert it again")
    kind, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", body[:16])
    if kind == _EXTENSIBLE and len(body) >= 26:
        (kind,) = struct.unpack("<H", body[24:26])
    is_supported = (kind == _PCM and bits in (8, 16, 24, 32)) or (kind == _FLOAT and bits in (32, 64))
    if not is_supported:
        raise BadSample(name, f"has samples of kind {kind} with {bits} bits; convert it to 16-bit PCM")
    layout = _checked(Layout(rate, channels, kind, bits), name)
    if frame != layout.frame:
        raise BadSample(name, f"says that a sample of {channels} channels has {frame} bytes, not {layout.frame}")
    return layout


def _checked(layout: Layout, name: str) -> Layout:
    if not MIN_RATE <= layout.rate <= MAX_RATE:
        raise BadSample(name, f"has {layout.rate} samples a second; rates go from {MIN_RATE} to {MAX_RATE}")
    if not 1 <= layout.channels <= MAX_CHANNELS:
        raise BadSample(name, f"has {layout.channels} channels; from 1 to {MAX_CHANNELS} are read")
    return layout


def _exactly(source: BinaryIO, count: int, name: str) -> bytes:
    data = source.read(count)
    if len(data) < count:
        raise BadSample(name, "ends within its header; fetch it again")
    return data
