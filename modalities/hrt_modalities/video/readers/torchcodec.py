"""The reader on torchcodec (the extra ``torchcodec``), which needs FFmpeg's libraries on the machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from hrt_mm.core.extras import install_command

from .base import Reader, ReaderError
from .index import FrameIndex
from .plain import check_plain

CODECS = frozenset({"h264", "hevc", "mpeg4", "mpeg2video", "vp8", "vp9", "av1", "mjpeg"})
"""What it decodes exactly, by tests."""


class TorchcodecReader(Reader):
    """Decodes on the CPU, as the GPU is busy training. Refuses files as decord does (:func:`~.plain.check_plain`)."""

    name = "torchcodec"

    def __init__(self, path: Path, index: FrameIndex, size: tuple[int, int]) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError, OSError) as error:
            raise ReaderError(
                f"torchcodec cannot be loaded ({_short(error)}): {install_command('torchcodec')}"
            ) from error
        check_plain(path, index, CODECS)
        try:
            self._decoder = VideoDecoder(str(path.absolute()), num_ffmpeg_threads=1, seek_mode="exact")
        except Exception as error:  # torchcodec raises whatever FFmpeg met
            raise ReaderError(_short(error)) from error
        if len(self._decoder) != len(index):
            raise ReaderError(f"finds {len(self._decoder)} frames where there are {len(index)}")
        self.size = size

    def read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        """Frames by number.

        Raises:
            ReaderError: one cannot be decoded.
        """
        if not numbers:
            return {}
        try:
            pixels_N3HW = self._decoder.get_frames_at(list(numbers)).data
        except Exception as error:  # as above
            raise ReaderError(_short(error)) from error
        if pixels_N3HW.shape[2:] != self.size:
            scaled = functional.interpolate(pixels_N3HW.float(), self.size, mode="bilinear", antialias=True)
            pixels_N3HW = scaled.round().clamp(0, 255).to(torch.uint8)
        return dict(zip(numbers, pixels_N3HW.permute(0, 2, 3, 1).numpy(), strict=True))


def _short(error: Exception) -> str:
    """The first line, and the second one if the first ends with a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:200]
