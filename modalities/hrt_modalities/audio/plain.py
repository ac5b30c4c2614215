"""Reads files with libsndfile: wav of PCM samples, whose positions are exact, and formats that FFmpeg lacks.

Shapes: S samples, C channels.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hrt_mm.core.errors import BadSample
from hrt_mm.core.extras import needs_extra

from .containers import check_layout
from .endings import STREAMED, declared_size

BLOCK = 1 << 20
"""Samples of all channels that are read at once."""
_WIDTHS = {
    "PCM_U8": 1, "PCM_S8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1,
}  # fmt: skip
"""Bytes of a sample."""
_FFMPEG_FORMATS = frozenset({"WAV", "WAVEX", "AIFF", "AU", "FLAC", "OGG", "MP3", "CAF", "W64", "RF64"})
_DATA = re.compile(r"^\s*data\s*:\s*(\d+)(?: \(should be (\d+)\))?\s*$", re.MULTILINE)


class Plain:
    """An open file of libsndfile.

    Args:
        file: a ``SoundFile``.
        name: of the sample, for messages.
        length: number of samples, if it is certain.
    """

    def __init__(self, file: Any, name: str, length: int | None) -> None:
        self._file, self.name, self.length = file, name, length
        self.rate, self.channels = int(file.samplerate), int(file.channels)
        check_layout(self.rate, self.channels, name)

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def chunks(self, first: int, count: int | None, size: int = BLOCK) -> Iterator[np.ndarray]:
        """Samples (S,) float32 from ``first`` on, in pieces; fewer than ``count`` if the file ends earlier.

        Args:
            first: sample.
            count: samples; to the end when ``None``.
            size: limit of the samples of a piece.

        Raises:
            BadSample: the file is damaged.
        """
        with needs_extra("audio"):
            import soundfile

        try:
            yield from self._read(first, count, min(size, max(1, BLOCK // self.channels)))
        except soundfile.LibsndfileError as error:
            raise BadSample(self.name, f"is broken or cut off ({error.error_string}); fetch it again") from error

    def _read(self, first: int, count: int | None, size: int) -> Iterator[np.ndarray]:
        position = 0
        if self.length is not None:
            position = min(first, self.length)
            self._file.seek(position)
            count = self.length - position if count is None else min(count, self.length - position)
        last = None if count is None else first + count
        while last is None or position < last:
            block_size = size if last is None else min(size, last - position)
            block_SC = self._file.read(block_size, dtype="float32", always_2d=True)
            if not len(block_SC):
                self.length = position
                return
            end = position + len(block_SC)
            if end > first:
                block_SC = block_SC[max(0, first - position) :]
                yield block_SC[:, 0] if self.channels == 1 else block_SC.mean(1)
            position = end


def open_wav(path: Path, name: str) -> Plain | None:
    """A wav file of PCM samples whose header and size agree; ``None`` for any other file.

    Raises:
        BadSample: it is truncated, or its rate or number of channels is not supported.
    """
    with path.open("rb") as raw:
        if raw.read(4) != b"RIFF":
            return None
    file = _open(path)
    if file is None:
        return None
    match = _DATA.search(file.extra_info)
    width = _WIDTHS.get(file.subtype)
    if file.subtype.startswith("NMS_ADPCM"):
        _check_whole(path, name)
        # FFmpeg mistakes it for another codec.
        return Plain(file, name, None)
    length = int(match[1]) if match else 0
    if match and width and 0 < length < STREAMED and file.format in ("WAV", "WAVEX"):
        # libsndfile reports a second number if the file is too short for the declared one.
        actual = length if match[2] is None else int(match[2])
        if actual < length:
            _check_whole(path, name)
        if actual >= length and length // (width * file.channels) == file.frames > 0:
            return Plain(file, name, int(file.frames))
    file.close()
    return None


def open_rare(path: Path, name: str) -> Plain | None:
    """A file that only libsndfile reads, because of its format or its header.

    Raises:
        BadSample: it is truncated, or its rate or number of channels is not supported.
    """
    file = _open(path)
    if file is None:
        return None
    if not file.frames or (file.format in _FFMPEG_FORMATS and file.subtype not in _WIDTHS):
        file.close()
        return None
    _check_whole(path, name)
    return Plain(file, name, None)


def _check_whole(path: Path, name: str) -> None:
    declared = declared_size(path)
    if declared is not None and declared.is_truncated(0):
        raise BadSample(
            name, f"is cut off: {declared.actual:,} of {declared.declared:,} bytes are there; fetch it again"
        )


def _open(path: Path) -> Any:
    with needs_extra("audio"):
        import soundfile

    try:
        return soundfile.SoundFile(os.fsencode(path))
    except soundfile.LibsndfileError:
        return None
