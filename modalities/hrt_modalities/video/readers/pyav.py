"""The reader on PyAV: opens every format of its FFmpeg, and returns the frames that decoding from the start gives."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from hrt_mm.core.errors import BadSample
from hrt_mm.core.extras import needs_extra

from .base import Reader, ReaderError
from .index import OPTIONS, FrameIndex, video_stream
from .packets import NONE, decoded, numbered

_NEAR = 8
"""Entry points fewer packets ahead are reached by decoding on, which is faster than a seek."""
_FRAME_BY_FRAME = frozenset({"avi", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"})
"""Containers that store frames separately, so that a truncated packet is one frame."""
_I_PICTURE = 1
_BEFORE = -1
"""Stands for the missing packets before a stream that begins within a group of pictures."""
_FAILURES = 8
"""After so many failed seeks, no more are tried."""


class _MismatchError(Exception):
    """Decoding from an entry point differs from decoding from the beginning."""


class PyavReader(Reader):
    """Decodes on to frames ahead, and seeks to an entry point for others.

    Packets after a seek are compared with the index, which detects a seek to the wrong place. Frames that may refer to
    broken or missing ones, up to the next key frame, are left out.
    """

    name = "pyav"

    def __init__(self, path: Path, index: FrameIndex, size: tuple[int, int]) -> None:
        with needs_extra("video"):
            from av.video.reformatter import VideoReformatter

        self.path, self.index, self.size = path, index, size
        self._plan = index.plan
        self._container: Any = None
        # One for all frames, because making one takes longer than decoding a small frame.
        self._reformat = VideoReformatter()
        larger = size[0] > index.height or size[1] > index.width
        self._scaling = "AREA" if size != (index.height, index.width) and not larger else "BILINEAR"
        self._broken: set[int] = set()
        """Entry points that cannot be decoded, or that no seek leads to."""
        sums_E = self._plan.sums_P[self._plan.entries_E].tolist()
        stamps = (dts if pts == NONE else pts for pts, dts in self._plan.stamps_E2.tolist())
        self._entry_numbers = {entry: number for number, entry in enumerate(zip(stamps, sums_E, strict=True))}
        self._starts = frozenset(self._plan.firsts_E.tolist())
        self._seeks = len(self._entry_numbers) == len(self._plan.entries_E) > 0
        """Whether to try seeks."""
        self._losses = False
        """Whether decoding from the beginning confirmed that frames are missing."""
        self._open()

    def read(self, numbers: Sequence[int]) -> dict[int, np.ndarray]:
        """Frames by number; those that are broken, or may refer to broken ones, are left out.

        Raises:
            ReaderError: the decoder outputs frames in another order than that of their times, or the file has changed.
        """
        decoded: dict[int, np.ndarray] = {}
        rows, columns = self.size
        for number in numbers:
            frame = self._frame(number)
            if frame is not None:
                # One thread: waking others takes ten times as long as a small frame, and there are workers anyway.
                scaled = self._reformat.reformat(frame, columns, rows, "rgb24", interpolation=self._scaling, threads=1)
                decoded[number] = scaled.to_ndarray()
        return decoded

    def close(self) -> None:
        """Closes the container."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def _frame(self, number: int) -> Any:
        """The frame of a number; ``None`` if it cannot be decoded."""
        while True:
            try:
                if not self._ahead(number):
                    self._enter(number)
                frame = self._forward(number)
                if frame is None and self._entered >= 0 and not self._losses:
                    # Decoding from the beginning shows whether the seek is to blame.
                    self._open()
                    frame = self._forward(number)
                    self._seeks, self._losses = frame is None, True
                return frame
            except _MismatchError as error:
                if self._entered < 0:
                    raise ReaderError(str(error)) from error
                self._seeks = False
                self._open()

    def _open(self) -> None:
        """Opens the file at its beginning."""
        with needs_extra("video"):
            import av

        self.close()
        try:
            self._container = av.open(str(self.path.absolute()), options=dict(OPTIONS), metadata_errors="replace")
            self._stream = video_stream(self._container, str(self.path))
        except (av.FFmpegError, ValueError, BadSample) as error:
            raise ReaderError(str(error)) from error
        self._stream.codec_context.thread_count = 1
        self._start(numbered(self._container, self._stream), -1)

    def _start(self, packets: Iterator[tuple[int, Any]], entered: int) -> None:
        """Starts to decode packets; ``entered`` is their entry point, or -1."""
        self._entered, self._next = entered, 0 if entered < 0 else int(self._plan.entries_E[entered])
        self._first = 0 if entered < 0 else int(self._plan.firsts_E[entered])
        self._at = self._first - 1
        self._last: Any = None
        self._frames = self._decoded(packets)
        self._damage = {_BEFORE} if entered < 0 and self._plan.headless else set()
        """Packets with broken or missing frames that later frames may refer to."""

    def _ahead(self, number: int) -> bool:
        """Whether to decode on to a frame, rather than from an entry point."""
        if number <= self._at:
            return number == self._at and self._last is not None
        entry = self._entry(number)
        return entry < 0 or int(self._plan.entries_E[entry]) < self._next + _NEAR

    def _entry(self, number: int) -> int:
        """The last usable entry point before a frame; -1 for the beginning."""
        entry = self._plan.entry(number) if self._seeks else -1
        return -1 if entry in self._broken else entry

    def _enter(self, number: int) -> None:
        """Starts at the last entry point before a frame, or at the beginning."""
        entry = self._entry(number)
        if entry >= 0:
            if self._seek(entry):
                return
            self._broken.add(entry)
            self._seeks = len(self._broken) < _FAILURES
        self._open()

    def _seek(self, entry: int) -> bool:
        """Starts at an entry point; false if no seek leads to it, or it cannot be decoded."""
        with needs_extra("video"):
            import av

        # Seeks in containers without an index may land late, so the entry point before is the last resort.
        for stamp in dict.fromkeys(self._plan.stamps_E2[[entry, max(0, entry - 1)]].flatten().tolist()):
            if stamp == NONE:
                continue
            try:
                self._container.seek(stamp, stream=self._stream)
            except av.FFmpegError:
                continue
            packets = self._from(entry)
            if packets is None:
                continue
            self._start(packets, entry)
            return self._forward(self._first) is not None
        return False

    def _from(self, entry: int) -> Iterator[tuple[int, Any]] | None:
        """Packets from an entry point on, if the seek landed before it."""
        packets = (packet for _, packet in numbered(self._container, self._stream))
        for packet in packets:
            stamp = packet.dts if packet.pts is None else packet.pts
            position = self._entry_numbers.get((NONE if stamp is None else stamp, zlib.crc32(memoryview(packet))))
            if position is not None and position >= entry:
                number = int(self._plan.entries_E[entry])
                return enumerate(chain([packet], packets), number) if position == entry else None
            if packet.size and packet.has_sidedata("new_extradata"):
                return None  # new parameters, which the decoder must not miss
        return None

    def _forward(self, number: int) -> Any:
        """The frame of a number if decoding on leads to it and it is intact."""
        while self._at < number:
            output = next(self._frames, None)
            if output is None:
                return None
            self._at, self._last = output
        return self._last if self._at == number else None

    def _decoded(self, packets: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Numbers of frames from here to the end, each with the frame, or ``None`` if it is damaged.

        A frame waits until all frames decoded before it are output, which shows whether they are damaged.
        """
        plan = self._plan
        waiting: deque[tuple[int, int, Any]] = deque()
        for number, packet, frame in self._outputs(packets):
            if frame.is_corrupt:
                self._damage.add(packet)
            elif packet not in self._damage and (number in self._starts or self._restarts(frame)):
                while waiting:
                    yield self._checked_frame(*waiting.popleft())
                # Nothing after a key frame refers to what is stored before it, nor to what is displayed before it.
                later = () if plan.counted else (damaged for damaged in self._damage if damaged > packet)
                self._damage = {damaged for damaged in later if plan.frames_P[damaged] > number}
            waiting.append((number, packet, frame))
            while waiting and plan.latest(waiting[0][0]) <= number:
                yield self._checked_frame(*waiting.popleft())
        while waiting:
            yield self._checked_frame(*waiting.popleft())

    def _outputs(self, packets: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, int, Any]]:
        """Numbers, packets and frames in the order of output, ascending."""
        plan, last, count = self._plan, self._first - 1, 0
        for packet, frame in decoded(self._checked(packets), self._stream.codec_context):
            if frame is None:
                self._damage.add(packet)
                continue
            number = count if plan.counted else int(plan.frames_P[packet])
            count += 1
            if number < self._first and self._entered >= 0:
                continue  # a leading picture without its references
            if number <= last:
                if self._damage:
                    continue
                raise _MismatchError("its frames come out of the decoder in another order than their times are in")
            if not plan.counted:
                self._damage.update(plan.order_N[last + 1 : number].tolist())
            last = number
            yield number, packet, frame

    def _restarts(self, frame: Any) -> bool:
        """Whether the decoder marks a frame as independent of those before it."""
        return bool(frame.key_frame) or (_BEFORE in self._damage and frame.pict_type == _I_PICTURE)

    def _checked_frame(self, number: int, packet: int, frame: Any) -> tuple[int, Any]:
        """A frame, or ``None`` if it or one that it may refer to is damaged."""
        return number, None if any(damaged <= packet for damaged in self._damage) else frame

    def _checked(self, packets: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Packets, compared with those of the index."""
        sums_P = self._plan.sums_P
        for number, packet in packets:
            if number >= len(sums_P) or zlib.crc32(memoryview(packet)) != int(sums_P[number]):
                raise _MismatchError("its packets are others than when it was indexed; has the file changed?")
            self._next = number + 1
            # In other containers the flag may concern data before the frame, or many frames at once.
            if packet.is_corrupt and self.index.container in _FRAME_BY_FRAME:
                self._damage.add(number)
            yield number, packet
