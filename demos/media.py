"""The files that a page may load: those of the answers that it was given, under names that say nothing of the disk."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

from PIL import Image

from hrt_mm.core.errors import UserError
from hrt_modalities.video.readers import VideoFile

TYPES = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif",
    ".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac", ".ogg": "audio/ogg",
    ".mp4": "video/mp4", ".webm": "video/webm",
}  # fmt: skip
"""Content types by suffix; other files are not shown."""
MAX_FILES = 20_000
"""Files that can be loaded at a time; those of the oldest answers are forgotten first."""
MAX_POSTERS = 512
"""Frames that are kept as JPEG."""
POSTER_SIDE = 480
"""Maximum width and height of a frame, in pixels."""
FINEST = 0.1
"""Seconds between frames that are told apart."""


class Media:
    """Files by random links. Links to one file are equal for as long as the page is served."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(16)
        self._files: OrderedDict[str, Path] = OrderedDict()
        self._posters: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def kind(self, path: Path) -> str:
        """``image``, ``audio`` or ``video``; empty for files that are not shown."""
        return TYPES.get(path.suffix.lower(), "").partition("/")[0]

    def link(self, path: Path) -> str:
        """The path of the URL under which the page loads a file."""
        token = blake2b(str(path).encode(errors="surrogateescape"), key=self._key, digest_size=16).hexdigest()
        with self._lock:
            self._files[token] = path
            self._files.move_to_end(token)
            while len(self._files) > MAX_FILES:
                self._files.popitem(last=False)
        return f"media/{token}"

    def file(self, token: str) -> tuple[Path, str] | None:
        """The file of a link with its content type, if there is one."""
        with self._lock:
            path = self._files.get(token)
        return (path, TYPES[path.suffix.lower()]) if path is not None and path.is_file() else None

    def poster(self, token: str, second: float) -> bytes | None:
        """A frame of a video as JPEG; ``None`` if there is none.

        Args:
            token: of the link.
            second: of the frame.
        """
        entry = self.file(token)
        if entry is None or not entry[1].startswith("video"):
            return None
        key = (token, round(second / FINEST))
        with self._lock:
            if key in self._posters:
                self._posters.move_to_end(key)
                return self._posters[key]
            try:
                data = frame(entry[0], key[1] * FINEST)
            except UserError:
                return None
            self._posters[key] = data
            while len(self._posters) > MAX_POSTERS:
                self._posters.popitem(last=False)
        return data


def frame(path: Path, second: float) -> bytes:
    """A frame of a video as JPEG.

    Args:
        path: the video.
        second: of the frame; the last one if it is later than the end.

    Raises:
        BadSample: the file cannot be decoded.
    """
    with VideoFile(path, path.name) as file:
        pixels_CHW = file.steady([file.index.at(max(0.0, second))])[0]
    picture = Image.fromarray(pixels_CHW.permute(1, 2, 0).numpy())
    picture.thumbnail((POSTER_SIDE, POSTER_SIDE))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
