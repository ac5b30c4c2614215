"""Selects the files that decord and torchcodec decode exactly.

Both seek by key frames and timestamps. They return wrong frames, or frames at wrong times, if leading pictures follow a
key frame (open GOP), timestamps are those of decoding (AVI), or a file is fragmented. Tests compare both with PyAV over
codecs and containers.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from .base import ReaderError
from .index import FrameIndex

_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
CONTAINERS = frozenset({_MP4, "matroska,webm"})


def check_plain(path: Path, index: FrameIndex, codecs: Collection[str]) -> None:
    """Refuses files that decord or torchcodec may decode wrongly.

    Args:
        path: the file.
        index: its frames.
        codecs: those that the reader decodes exactly, by tests.

    Raises:
        ReaderError: the file is refused.
    """
    if index.codec not in codecs:
        raise ReaderError(f"is not given {index.codec}")
    if index.container not in CONTAINERS:
        raise ReaderError(f"is not given the container {index.container}")
    if index.missing:
        raise ReaderError(f"is not given files that are cut off ({index.missing} frames are missing)")
    if index.orientation.rotation or index.orientation.mirrored:
        raise ReaderError(f"is not given turned frames ({index.orientation})")
    if not index.plan.predicted:
        raise ReaderError("is not given files whose frames only decoding tells")
    if len(index) < len(index.plan.sums_P):
        raise ReaderError("is not given files with frames that are not shown (edit lists, hidden frames)")
    if not _closed(index):
        raise ReaderError("is not given open GOPs, or key frames that are none")
    if index.container == _MP4 and _fragmented(path):
        raise ReaderError("is not given fragmented mp4")


def _closed(index: FrameIndex) -> bool:
    """Whether all GOPs are closed: no frame after a key frame in the file is displayed before it."""
    plan = index.plan
    keys_P = plan.order_N[list(index.keys)]
    # For each packet, the first frame in presentation order among it and those after it.
    earliest_P = np.minimum.accumulate(plan.frames_P[::-1])[::-1]
    is_entry = np.isin(keys_P, plan.entries_E) | (keys_P == 0)
    return bool(is_entry.all() and (earliest_P[keys_P] == plan.frames_P[keys_P]).all())


def _fragmented(path: Path) -> bool:
    """Whether an mp4 file has movie fragments."""
    with path.open("rb") as file:
        position, end = 0, path.stat().st_size
        while position + 8 <= end:
            file.seek(position)
            head = file.read(16)
            if head[4:8] == b"moof":
                return True
            size = int.from_bytes(head[:4], "big")
            if size == 1:
                size = int.from_bytes(head[8:16], "big")
            if size < 8:
                break
            position += size
    return False
