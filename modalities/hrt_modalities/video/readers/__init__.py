"""Readers of video files: decord, PyAV and torchcodec behind one interface."""

from __future__ import annotations

from .file import ORDER, READERS, DecodedFrames, ReaderName, VideoFile
from .index import MAX_PIXELS, SUFFIXES, FrameIndex, read_index

__all__ = [
    "MAX_PIXELS",
    "ORDER",
    "READERS",
    "SUFFIXES",
    "DecodedFrames",
    "FrameIndex",
    "ReaderName",
    "VideoFile",
    "read_index",
]
