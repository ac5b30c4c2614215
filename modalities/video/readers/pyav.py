"""The reader on PyAV: opens everything that its FFmpeg knows, by the times of frames, and goes on after broken ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hrt_mm.errors import BadSample

from .base import Reader, ReaderError
from .index import OPTIONS, Index, video_stream


class PyavReader(Reader):
    """Goes on decoding where wanted frames lie ahead before the next key frame, and seeks where they do not."""

    name = "pyav"

    def __init__(self, path: Path, index: Index, size: tuple[int, int]) -> None:
        from av.video.reformatter import VideoReformatter

        self.path, self.index, self.size = path, index, size
        self._numbers = {stamp: number for number, stamp in enumerate(index.stamps_N.tolist())}
        self._container: Any = None
        # Kept over frames: making one takes longer than a small frame takes to decode.
        self._reformat = VideoReformatter()
        self._scaling = "AREA" if size != (index.height, index.width) else "BILINEAR"
        self._open()

    def read(self, wanted: Sequence[int]) -> dict[int, np.ndarray]:
        """Frames by number; each that its decoder stumbles over is left out."""
        found: dict[int, np.ndarray] = {}
        for number in wanted:
            if self._behind(number):
                self._seek(number)
            frame = self._forward(number)
            if frame is not None:
                found[number] = self._pixels(frame)
        return found

    def close(self) -> None:
        """Closes the container."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self) -> None:
        import av

        self.close()
        try:
            self._container = av.open(str(self.path.resolve()), options=dict(OPTIONS), metadata_errors="replace")
            self._stream = video_stream(self._container, str(self.path))
        except (av.FFmpegError, ValueError, BadSample) as error:
            raise ReaderError(str(error)) from error
        self._stream.codec_context.thread_count = 1
        self._frames = self._decoded()
        self._last: tuple[int, Any] | None = None
        self._next = 0

    def _behind(self, number: int) -> bool:
        """Whether decoding on does not lead to a frame, or only through a key frame that a seek would jump to."""
        at = self._last[0] if self._last is not None else -1
        return number < at or any(at < key <= number for key in self.index.keys if key > 0)

    def _seek(self, number: int) -> None:
        """To the last key frame that leads to a frame. Some containers land behind it: then one before, and so on."""
        import av

        if not self._numbers:
            self._open()
            return
        keys = [key for key in self.index.keys if key <= number]
        # Backwards by doubling: a container without an index of its own may be far off.
        for back in (1, 2, 4, 8):
            key = keys[-back] if back <= len(keys) else 0
            try:
                self._container.seek(int(self.index.stamps_N[key]), stream=self._stream)
            except av.FFmpegError:
                continue
            self._frames, self._last = self._decoded(), None
            first = next(self._frames, None)
            if first is not None and first[0] <= number:
                self._last = first
                return
        self._open()

    def _forward(self, number: int) -> Any:
        """The frame of a number, where decoding on leads to it."""
        while self._last is None or self._last[0] < number:
            self._last = next(self._frames, None)
            if self._last is None:
                # The end of the stream: the next call starts anew.
                self._open()
                return None
        at, frame = self._last
        return frame if at == number and not frame.is_corrupt else None

    def _decoded(self) -> Iterator[tuple[int, Any]]:
        """Frames from here to the end with their numbers."""
        import av

        try:
            for packet in self._container.demux(self._stream):
                for frame in self._of(packet):
                    if not self._numbers:
                        self._next += 1
                        yield self._next - 1, frame
                    elif frame.pts in self._numbers:
                        yield self._numbers[frame.pts], frame
        except av.FFmpegError:
            return

    def _of(self, packet: Any) -> list[Any]:
        import av

        try:
            found: list[Any] = packet.decode()
        except av.FFmpegError:
            self._next += 1
            return []
        return found

    def _pixels(self, frame: Any) -> np.ndarray:
        rows, columns = self.size
        # One thread: waking others takes ten times as long as a small frame, and workers read side by side anyway.
        scaled = self._reformat.reformat(frame, columns, rows, "rgb24", interpolation=self._scaling, threads=1)
        pixels: np.ndarray = scaled.to_ndarray()
        return pixels
