"""A video file, read by frame numbers, by time, or from beginning to end.

Shapes: N frames, H rows, W columns, always 3 channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from hrt_mm.core.errors import BadSample, ConfigError

from .base import Reader, ReaderError
from .decord import DecordReader
from .index import MAX_PIXELS, FrameIndex, read_index
from .pyav import PyavReader
from .torchcodec import TorchcodecReader

ReaderName = Literal["pyav", "decord", "torchcodec"]
READERS: dict[str, type[Reader]] = {kind.name: kind for kind in (PyavReader, DecordReader, TorchcodecReader)}
ORDER: tuple[ReaderName, ...] = ("pyav",)
"""The default readers, in order. PyAV reads every file exactly; the others are used if they are named."""
_MAX_BYTES = 4 << 30
"""Memory limit of the frames of one call."""


@dataclass(frozen=True, eq=False)
class DecodedFrames:
    """Frames of a file.

    Args:
        pixels_N3HW: uint8, upright.
        times_N: seconds from the beginning of the file, float64.
        lost: requested frames that could not be decoded; they are left out.
    """

    pixels_N3HW: Tensor
    times_N: Tensor
    lost: int = 0


class VideoFile:
    """Reads a file with the first reader that reads it exactly, and falls back to the next one if that fails.

    Readers are opened when frames are requested, so that the index alone needs no decoder.

    Args:
        path: the file.
        name: of the sample, for messages.
        readers: names of readers, in order.
        side: larger frames are scaled down until their shorter side has so many pixels.
        max_pixels: of a frame; files with larger ones are refused.
        square_pixels: resample the columns of anamorphic video to square pixels, as players do.

    Raises:
        BadSample: the file is no video, or its frames are too large.
        ConfigError: there is no such reader.
    """

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        *,
        readers: Sequence[str] = ORDER,
        side: int | None = None,
        max_pixels: int = MAX_PIXELS,
        square_pixels: bool = True,
    ) -> None:
        self.path, self.name = path, name or str(path)
        if unknown := [reader for reader in readers if reader not in READERS]:
            raise ConfigError(f"there is no reader {unknown[0]!r}; one of {', '.join(READERS)}")
        self.index: FrameIndex = read_index(path, self.name, max_pixels)
        self._stored = self.index.stored(side, square_pixels=square_pixels)
        if math.prod(self._stored) > max_pixels:
            raise BadSample(
                self.name,
                f"is {self._stored[1]}x{self._stored[0]} with square pixels, more than data.max_pixels={max_pixels}; "
                "set data.square_pixels: false, or data.side",
            )
        self._failures: dict[str, str] = {}
        self._left = list(readers)
        self._open: Reader | None = None
        self._last_frame: np.ndarray | None = None

    @property
    def reader(self) -> str:
        """The reader in use.

        Raises:
            BadSample: none can open the file; lists their errors.
        """
        return self._reader().name

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of upright frames."""
        rows, columns = self._stored
        return (columns, rows) if self.index.orientation.sideways else (rows, columns)

    def frames(self, numbers: Sequence[int]) -> DecodedFrames:
        """Frames by number, in any order and with repetitions.

        Raises:
            BadSample: a number is out of range, no reader can open the file (lists their errors), none of the frames
                can be decoded, or they need too much memory.
        """
        unique = sorted(set(numbers))
        if unique and not 0 <= unique[0] <= unique[-1] < len(self.index):
            raise BadSample(self.name, f"has frames 0 to {len(self.index) - 1}, not {unique[0]} to {unique[-1]}")
        if len(numbers) * math.prod(self._stored) * 3 > _MAX_BYTES:
            raise BadSample(
                self.name,
                f"{len(numbers)} frames of {self._stored[1]}x{self._stored[0]} pixels need more than "
                f"{_MAX_BYTES >> 30} GiB at once; set data.side, or read fewer",
            )
        decoded = self._read(unique)
        available = [number for number in numbers if number in decoded]
        if numbers and not available:
            raise BadSample(self.name, f"none of {len(unique)} frames can be decoded; fetch it again")
        return DecodedFrames(
            self._stack(decoded, available), self.index.times_N[available], len(numbers) - len(available)
        )

    def at(self, times: Sequence[float]) -> DecodedFrames:
        """The frames that are displayed at some times in seconds.

        Raises:
            BadSample: as :meth:`frames`.
        """
        return self.frames([self.index.at(time) for time in times])

    def stream(self, numbers: Sequence[int] | None = None, block: int = 32) -> Iterator[DecodedFrames]:
        """Frames in blocks, in constant memory. A block may be empty.

        Args:
            numbers: ascending; all when ``None``.
            block: number of frames per block.

        Raises:
            BadSample: as :meth:`frames`, except for blocks of which none can be decoded.
        """
        chosen = range(len(self.index)) if numbers is None else numbers
        for first in range(0, len(chosen), block):
            batch = list(chosen[first : first + block])
            decoded = self._read(batch)
            available = [number for number in batch if number in decoded]
            yield DecodedFrames(
                self._stack(decoded, available), self.index.times_N[available], len(batch) - len(available)
            )

    def steady(self, numbers: Sequence[int]) -> Tensor:
        """(N, 3, H, W) frames, one for each number: broken ones repeat the last frame before them, or are black.

        Raises:
            BadSample: as :meth:`frames`, except for broken frames.
        """
        unique = sorted(set(numbers))
        decoded = self._read(unique)
        for number in unique:
            if number not in decoded:
                decoded[number] = (
                    np.zeros((*self._stored, 3), np.uint8) if self._last_frame is None else self._last_frame
                )
            self._last_frame = decoded[number]
        return self._stack(decoded, numbers)

    def close(self) -> None:
        """Closes the file."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        while True:
            reader = self._reader()
            try:
                return reader.read(numbers)
            except ReaderError as error:
                self._failures[reader.name] = str(error)
                self.close()

    def _reader(self) -> Reader:
        """The reader in use, or the next one that can open the file."""
        while self._open is None and self._left:
            name = self._left.pop(0)
            try:
                self._open = READERS[name](self.path, self.index, self._stored)
            except ReaderError as error:
                self._failures[name] = str(error)
        if self._open is None:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._failures.items())
            raise BadSample(self.name, f"no reader can decode it ({reasons})")
        return self._open

    def _stack(self, decoded: dict[int, np.ndarray], numbers: Sequence[int]) -> Tensor:
        if not numbers:
            return torch.empty(0, 3, *self.size, dtype=torch.uint8)
        pixels_N3HW = rearrange(
            torch.from_numpy(np.stack([decoded[number] for number in numbers])), "n h w c -> n c h w"
        )
        return self.index.orientation.upright(pixels_N3HW)
