"""The reader on decord, for files of a simple structure, on which it is exact."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hrt_mm.core.extras import install_command

from .base import Reader, ReaderError
from .index import FrameIndex
from .plain import check_plain

CODECS = frozenset({"h264", "hevc", "mpeg4", "mpeg2video", "vp8", "vp9"})
"""What its FFmpeg of 2018 decodes exactly, by tests."""
PADDED = frozenset({16, 24, 48, 72})
"""Widths at which it fails: it pads such frames and then cannot copy them."""


class DecordReader(Reader):
    """Refuses what decord may decode wrongly or crash on (:func:`~.plain.check_plain`), and some widths."""

    name = "decord"

    def __init__(self, path: Path, index: FrameIndex, size: tuple[int, int]) -> None:
        check_plain(path, index, CODECS)
        try:
            from decord import VideoReader, cpu
        except ImportError as error:
            raise ReaderError(f"decord is not installed ({error}): {install_command('video')}") from error
        rows, columns = size
        if columns in PADDED:
            raise ReaderError(f"is not given frames of {columns} columns, which it cannot copy")
        scaled = size != (index.height, index.width)
        try:
            self._reader = VideoReader(
                str(path.absolute()),
                ctx=cpu(0),
                width=columns if scaled else -1,
                height=rows if scaled else -1,
                num_threads=1,
            )
        except Exception as error:  # decord raises whatever its library met
            raise ReaderError(_short(error)) from error
        if len(self._reader) != len(index):
            raise ReaderError(f"finds {len(self._reader)} frames where there are {len(index)}")
        self.index, self.size = index, size

    def read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        """Frames by number.

        Raises:
            ReaderError: one cannot be decoded, or is not the requested one.
        """
        if not numbers:
            return {}
        try:
            times_N = self._reader.get_frame_timestamp(list(numbers))[:, 0]
            pixels_NHW3 = self._reader.get_batch(list(numbers)).asnumpy()
        except Exception as error:  # as above
            raise ReaderError(_short(error)) from error
        expected_N = self.index.times_N[list(numbers)].numpy()
        drift = float(np.abs(times_N - times_N[0] - (expected_N - expected_N[0])).max())
        if drift > 0.5 / self.index.rate:
            raise ReaderError(f"places frames {drift:.3f} s away from their times")
        if pixels_NHW3.shape[1:] != (*self.size, 3):
            raise ReaderError(f"gives frames of shape {pixels_NHW3.shape[1:]} where {(*self.size, 3)} is right")
        return dict(zip(numbers, pixels_NHW3, strict=True))


def _short(error: Exception) -> str:
    """The first line, without its prefix of times and source locations."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^(?:\S+\.cc:\d+: |\[[\d:]+\] )+", "", line)[:200]
