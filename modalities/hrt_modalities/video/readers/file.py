"""A video file that can be read by the numbers of frames, by time, or from beginning to end.

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
"""The readers that are tried, in order. PyAV serves every file, exactly; others are used when they are named."""
_MAX_BYTES = 4 << 30
"""Of the frames of one call."""


@dataclass(frozen=True, eq=False)
class DecodedFrames:
    """Frames of a file.

    Args:
        pixels_N3HW: uint8, upright.
        times_N: seconds from the beginning of the file, float64.
        lost: frames that were asked for and could not be decoded; they are left out.
    """

    pixels_N3HW: Tensor
    times_N: Tensor
    lost: int = 0


class VideoFile:
    """Reads a file with the first reader that serves it exactly, and goes on with the next one where it fails.

    Readers are opened when frames are asked for: who needs the index alone does not pay for a decoder.

    Args:
        path: the file.
        name: what messages call it.
        readers: which ones, in order.
        side: frames are scaled down as they are decoded, until their shorter side has this many pixels.
        max_pixels: of a frame; files of larger ones are refused.
        square_pixels: whether frames of pixels that are not square (anamorphic video) are resampled to square ones,
            as players show them: rows stay, and columns become more or fewer.

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
        self._shown: np.ndarray | None = None

    @property
    def reader(self) -> str:
        """The reader in use.

        Raises:
            BadSample: none can open the file; lists what each one said.
        """
        return self._reader().name

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the frames that are given."""
        rows, columns = self._stored
        return (columns, rows) if self.index.orientation.sideways else (rows, columns)

    def frames(self, numbers: Sequence[int]) -> DecodedFrames:
        """Frames by number, in any order, repeats among them.

        Raises:
            BadSample: a number is out of range, no reader can open the file (lists what each one said), none of the
                frames can be decoded, or they need too much memory.
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
        """The frames that are shown at some seconds.

        Raises:
            BadSample: as :meth:`frames`.
        """
        return self.frames([self.index.at(time) for time in times])

    def stream(self, numbers: Sequence[int] | None = None, block: int = 32) -> Iterator[DecodedFrames]:
        """Frames in blocks, so that a file of any length needs little memory. A block may be empty.

        Args:
            numbers: ascending; all when ``None``.
            block: frames at once.

        Raises:
            BadSample: as :meth:`frames`, but for blocks of which none can be decoded.
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
        """(N, 3, H, W) frames, one for each number: a frame that is broken is shown as the last one before it.

        Raises:
            BadSample: as :meth:`frames`, but for broken frames; where there is none before them they are black.
        """
        unique = sorted(set(numbers))
        decoded = self._read(unique)
        for number in unique:
            if number not in decoded:
                decoded[number] = np.zeros((*self._stored, 3), np.uint8) if self._shown is None else self._shown
            self._shown = decoded[number]
        return self._stack(decoded, numbers)

    def close(self) -> None:
        """Lets go of the file."""
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
        """The one in use, or the next one that can open the file."""
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
