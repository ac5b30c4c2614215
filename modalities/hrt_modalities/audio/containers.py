"""Opens containers of sound with FFmpeg, through PyAV, and turns the frames of a decoder into samples.

Shapes: S samples.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hrt_mm.core.errors import BadSample
from hrt_mm.core.extras import needs_extra

from .audio import MAX_RATE, MIN_RATE

FORMATS = (
    "3gp,aa,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,asf_o,au,avi,avr,bfi,caf,dsf,dts,dtshd,eac3,flac,flv,gsm,iff,ircam,"
    "loas,matroska,webm,mov,mp4,m4a,mp3,mpc,mpc8,mpeg,mpegts,mxf,nistsphere,nut,ogg,oma,paf,pvf,qcp,rm,rso,shn,sox,"
    "tak,truehd,tta,voc,w64,wav,wsd,wv,xwma"
)
"""Containers that are opened. Those that name other files (playlists, concatenations) are not among them."""
OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
MAX_CHANNELS = 64


@contextmanager
def container_of(path: Path, name: str) -> Iterator[Any]:
    """An open container, of a format that does not refer to other files.

    Raises:
        BadSample: the file is none.
    """
    with needs_extra("audio"):
        import av

    with ExitStack() as stack:
        file = _patched_file(path)
        # An absolute path, because FFmpeg takes names such as "concat:a|b" for commands.
        source = str(path.absolute()) if file is None else stack.enter_context(file)
        try:
            container = stack.enter_context(av.open(source, options=dict(OPTIONS), metadata_errors="replace"))
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadSample(
                name, f"is not a sound file that can be read, or is cut off ({reason}); convert it to wav or flac"
            ) from error
        yield container


class _PatchedFile(io.FileIO):
    """A file in which some bytes are replaced.

    Args:
        path: the file.
        offset: of the replaced bytes.
        data: what replaces them.
    """

    def __init__(self, path: Path, offset: int, data: bytes) -> None:
        super().__init__(path)
        self._offset, self._data = offset, data

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes."""
        begin = self.tell()
        chunk = super().read(-1 if size is None else size) or b""
        first, last = max(begin, self._offset), min(begin + len(chunk), self._offset + len(self._data))
        if first >= last:
            return chunk
        return chunk[: first - begin] + self._data[first - self._offset : last - self._offset] + chunk[last - begin :]


def _patched_file(path: Path) -> _PatchedFile | None:
    """A file object for files that FFmpeg cannot read by their path; ``None`` for others.

    It takes the size 0 in AU and RF64 literally, which streams have, and it refuses paths that are not UTF-8.
    """
    with path.open("rb") as file:
        head = file.read(36)
    if head[:4] == b".snd" and head[8:12] == bytes(4):
        return _PatchedFile(path, 8, b"\xff" * 4)
    if head[:4] in (b"RF64", b"BW64") and head[12:16] == b"ds64" and head[28:36] == bytes(8):
        return _PatchedFile(path, 28, struct.pack("<Q", 1 << 62))
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return _PatchedFile(path, 0, b"")
    return None


def audio_stream(container: Any, name: str) -> Any:
    """The best audio stream of a container.

    Raises:
        BadSample: there is none, or no decoder for it.
    """
    stream = container.streams.best("audio")
    if stream is None:
        raise BadSample(name, "has no audio track, or is cut off")
    if stream.codec_context is None:
        raise BadSample(name, "holds sound of a codec that cannot be read; convert it to wav or flac")
    context = stream.codec_context
    context.thread_count = 1
    if context.name == "flac":
        # Otherwise damaged frames are decoded to noise.
        context.options = {"err_detect": "crccheck"}
    return stream


def mono(frame: Any) -> np.ndarray:
    """(S,) float32 of a frame, full scale at 1, its channels averaged."""
    if frame.format.name.startswith("s64"):
        # PyAV does not convert 64-bit samples.
        samples: np.ndarray = np.stack([np.frombuffer(plane, np.int64) for plane in frame.planes])
        samples = samples[:, : frame.samples * (1 if frame.format.is_planar else frame.layout.nb_channels)]
    else:
        samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif np.issubdtype(samples.dtype, np.integer):
        samples = (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    result: np.ndarray = samples[0] if len(samples) == 1 else samples.mean(0, dtype=np.float32)
    return result.astype(np.float32, copy=False)


def check_layout(rate: int, channels: int, name: str) -> None:
    """Checks the rate and the number of channels of a file.

    Raises:
        BadSample: they are out of range.
    """
    if not MIN_RATE <= rate <= MAX_RATE:
        raise BadSample(name, f"has {rate} samples a second; rates go from {MIN_RATE} to {MAX_RATE}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise BadSample(name, f"has {channels} channels; from 1 to {MAX_CHANNELS} are read")
