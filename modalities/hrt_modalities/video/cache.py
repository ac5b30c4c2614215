"""A disk cache of decoded frames, so that later epochs need no decoder.

Shapes: N frames, H rows, W columns.
"""

from __future__ import annotations

import io
import math
import os
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor

from hrt_mm.core.component import Component

from .readers import VideoFile

_VERSION = 2
"""Version of the cached frames: earlier versions decoded some files wrongly, so their frames are not used."""
_CRC = 4
"""Bytes of the checksum."""


class CacheConfig(Component):
    """The folder and the size of the cache of decoded frames."""

    dir: Path
    """The folder. Its files depend on the video's path, size and modification time, so stale ones are never read."""
    max_gib: PositiveFloat = 8.0
    """Size limit of the folder, beyond which nothing is added."""


class DecodedCache:
    """Decoded frames by file and numbers, in NumPy's format without pickle, followed by a CRC-32.

    Entries that cannot be written, or are damaged, are decoded again.
    """

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        self._left: float | None = None

    def get(self, file: VideoFile, numbers: Sequence[int]) -> Tensor | None:
        """(N, 3, H, W) uint8; ``None`` if they are not in the cache."""
        path = self._path(file, numbers)
        shape = (len(numbers), *file.size, 3)
        header, size = _header(shape), math.prod(shape)
        try:
            if path.stat().st_size != len(header) + size + _CRC:
                return None
            data = bytearray(path.read_bytes())
        except OSError:
            return None
        pixels = memoryview(data)[len(header) : len(header) + size]
        crc = zlib.crc32(pixels).to_bytes(_CRC, "little")
        if len(data) != len(header) + size + _CRC or data[: len(header)] != header or data[-_CRC:] != crc:
            return None
        return torch.frombuffer(pixels, dtype=torch.uint8).reshape(shape).permute(0, 3, 1, 2)

    def put(self, file: VideoFile, numbers: Sequence[int], pixels_N3HW: Tensor) -> None:
        """Adds frames, if there is space."""
        if self._left is None:
            self.config.dir.mkdir(parents=True, exist_ok=True)
            for left in self.config.dir.glob("*.part"):
                with suppress(OSError):
                    if time.time() - left.stat().st_mtime > 3_600:
                        left.unlink()
            used = sum(entry.stat().st_size for entry in os.scandir(self.config.dir) if entry.name.endswith(".npy"))
            self._left = self.config.max_gib * 2**30 - used
        if pixels_N3HW.nbytes > self._left:
            return
        path = self._path(file, numbers)
        try:
            with NamedTemporaryFile(dir=self.config.dir, suffix=".part", delete=False) as draft:
                try:
                    pixels_NHW3 = np.ascontiguousarray(pixels_N3HW.permute(0, 2, 3, 1).numpy())
                    draft.write(_header(pixels_NHW3.shape))
                    draft.write(pixels_NHW3.data)
                    draft.write(zlib.crc32(pixels_NHW3.data).to_bytes(_CRC, "little"))
                    draft.flush()
                    Path(draft.name).replace(path)
                except BaseException:
                    Path(draft.name).unlink(missing_ok=True)
                    raise
        except OSError:
            return
        self._left -= pixels_N3HW.nbytes

    def _path(self, file: VideoFile, numbers: Sequence[int]) -> Path:
        status = file.path.stat()
        key = f"{_VERSION} {file.path.resolve()} {status.st_size} {status.st_mtime_ns} {file.size} {list(numbers)}"
        return self.config.dir / f"{blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}.npy"


def _header(shape: Sequence[int]) -> bytes:
    """The header of NumPy's format."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)})
    return file.getvalue()
