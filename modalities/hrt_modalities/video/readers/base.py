"""The interface of readers of video files.

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
    """A reader cannot read a file; another one may."""


class Reader(ABC):
    """Decodes frames of one file by their numbers.

    Args:
        path: the file.
        index: its frames.
        size: rows and columns to scale frames to, before they are turned upright.

    Raises:
        ReaderError: it cannot read the file.
    """

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, path: Path, index: FrameIndex, size: tuple[int, int]) -> None: ...

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        """Frames (H, W, 3) uint8 by number; those that cannot be decoded are left out.

        Args:
            numbers: unique, ascending.

        Raises:
            ReaderError: the file cannot be read.
        """

    def close(self) -> None:
        """Closes the file."""
        return
