"""Readers of video files: decord, PyAV and torchcodec behind one interface."""

from __future__ import annotations

from .file import ORDER, READERS, Frames, ReaderName, VideoFile
from .index import MAX_PIXELS, SUFFIXES, Index, read_index

__all__ = ["MAX_PIXELS", "ORDER", "READERS", "SUFFIXES", "Frames", "Index", "ReaderName", "VideoFile", "read_index"]
