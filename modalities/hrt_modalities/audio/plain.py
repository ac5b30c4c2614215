"""Reads files through libsndfile: wav of plain samples, where each lies at a known byte, and what FFmpeg cannot read.

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
"""Samples of all channels that are read at once, before channels are averaged."""
_WIDTHS = {
    "PCM_U8": 1, "PCM_S8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8, "ULAW": 1, "ALAW": 1,
}  # fmt: skip
"""Bytes of a sample."""
_KNOWN_TO_FFMPEG = frozenset({"WAV", "WAVEX", "AIFF", "AU", "FLAC", "OGG", "MP3", "CAF", "W64", "RF64"})
_DATA = re.compile(r"^\s*data\s*:\s*(\d+)(?: \(should be (\d+)\))?\s*$", re.MULTILINE)


class Plain:
    """An open file of libsndfile.

    Args:
        file: a ``SoundFile``.
        name: of the sample, for messages.
        length: samples of the file, where they are sure.
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
        """Samples (S,) float32 from ``first`` on, in pieces; fewer than asked for where the file ends before.

        Args:
            first: sample.
            count: samples; to the end when ``None``.
            size: samples of a piece at most.

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
    """A wav file of plain samples whose header and size agree; ``None`` for any other file.

    Raises:
        BadSample: it is cut off, or has a rate or a number of channels that is not read.
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
        # FFmpeg takes it for something else.
        return Plain(file, name, None)
    length = int(match[1]) if match else 0
    if match and width and 0 < length < STREAMED and file.format in ("WAV", "WAVEX"):
        there = length if match[2] is None else int(match[2])
        if there < length:
            _check_whole(path, name)
        if there >= length and length // (width * file.channels) == file.frames > 0:
            return Plain(file, name, int(file.frames))
    file.close()
    return None


def open_rare(path: Path, name: str) -> Plain | None:
    """A file that FFmpeg does not read, from its beginning: of a kind or with a header that libsndfile alone takes.

    Raises:
        BadSample: it is cut off, or has a rate or a number of channels that is not read.
    """
    file = _open(path)
    if file is None:
        return None
    if not file.frames or (file.format in _KNOWN_TO_FFMPEG and file.subtype not in _WIDTHS):
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
