"""What a reader of video files is, and what it gives.

Shapes: N frames, H rows, W columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from .index import FrameIndex


class ReaderError(Exception):
    """A reader cannot serve a file; another one may."""


class Reader(ABC):
    """Decodes frames of one file by their numbers.

    Args:
        path: the file.
        index: its frames.
        size: rows and columns that frames are scaled to as they are decoded, before they are turned.

    Raises:
        ReaderError: it cannot serve the file.
    """

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, path: Path, index: FrameIndex, size: tuple[int, int]) -> None: ...

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        """Frames (H, W, 3) uint8 by number; those that cannot be decoded are left out.

        Args:
            numbers: different numbers, ascending.

        Raises:
            ReaderError: the reader gives up on the file.
        """

    def close(self) -> None:
        """Lets go of the file."""
        return
