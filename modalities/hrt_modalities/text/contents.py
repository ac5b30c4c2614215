"""What a file of text holds: plain text, compressed text, text in another encoding, or something that is no text.

Compressed text (gzip, bzip2, xz, zstd) and text with a byte order mark (UTF-8, UTF-16, UTF-32) are read as the text
that they hold. What is no text is refused with the reason: archives, pictures, tables such as Parquet, and all with NUL
bytes. Bytes that are no UTF-8 stay as they are. The beginning, middle and end of a file decide, so that corpora of any
size open at once.
"""

from __future__ import annotations

import atexit
import bz2
import codecs
import gzip
import lzma
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any, cast

from hrt_mm.data.plain_text import NotText, encoding_of

_HEAD, _PROBE = 1 << 13, 1 << 10
"""Bytes of the beginning, and of the middle and the end, that are looked at."""
_CHUNK = 1 << 22
"""Bytes that are unpacked at once."""
_ROOM = 1 << 28
"""Bytes of the disk that stay free."""
MAX_UNPACKED = 1 << 30
"""The longest compressed document that is unpacked in memory."""

_KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"PAR1[\0-\x1f]", "a Parquet table; read it by data.type hugging_face, or export its texts as JSONL"),
    (rb"ARROW1\0", "an Arrow table; read it by data.type hugging_face, or export its texts as JSONL"),
    (rb"Obj\x01", "an Avro table; export its texts as JSONL"),
    (rb"SQLite format 3\0", "an SQLite database; export its texts as JSONL"),
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip archive, as office documents are; unpack it, or save it as text"),
    (rb".{257}ustar", "a tar archive; unpack it"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (rb"Rar!\x1a\x07", "a RAR archive; unpack it"),
    (rb"\x04\x22\x4d\x18", "lz4 data; unpack it"),
    (rb"%PDF-[0-9]", "a PDF; extract its text, as pdftotext does"),
    (rb"\{\\rtf[0-9]", "a document in RTF; save it as text"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old office document; save it as text"),
    (rb"\x89PNG\r\n", "a picture (PNG)"),
    (rb"\xff\xd8\xff", "a picture (JPEG)"),
    (rb"GIF8[79]a", "a picture (GIF)"),
    (rb"II\*\0|MM\0\*", "a picture (TIFF)"),
    (rb"RIFF.{4}WEBP", "a picture (WebP)"),
    (rb"RIFF.{4}(WAVE|AVI )", "sound or video (RIFF)"),
    (rb"OggS\0", "sound or video (Ogg)"),
    (rb"fLaC\0", "sound (FLAC)"),
    (rb"ID3[\x02-\x04]", "sound (MP3)"),
    (rb"\0.{3}ftyp", "video, sound or a picture (MP4)"),
    (rb"\x1aE\xdf\xa3", "video (Matroska)"),
    (rb"\x7fELF|MZ.\0", "a program"),
    (rb"\x93NUMPY", "an array (NumPy)"),
    (rb"\x89HDF", "arrays (HDF5)"),
    (rb"version https://git-lfs\.github\.com/spec/", "a pointer of Git LFS, not the file; fetch it with git lfs pull"),
)
"""What files are, by how they begin. Each beginning has a byte that text has not, or is long."""
_CONTROL = bytes([*range(1, 8), *range(14, 27), *range(28, 32), 127])
"""Characters that text does not have; it may have those of terminals (bell, escape)."""
_CUT = 3
"""Bytes of a character that was cut, at most."""
_MANY = 0.02
"""Part of bytes that are control characters in what is no UTF-8, above which it is no text."""


def _gzip(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb"))


def _bzip2(path: Path) -> IO[bytes]:
    return cast(IO[bytes], bz2.open(path, "rb"))


def _xz(path: Path) -> IO[bytes]:
    return cast(IO[bytes], lzma.open(path, "rb"))


def _zstd(path: Path) -> IO[bytes]:
    """Python 3.14 reads zstd; before, one of two packages does."""
    for name in ("compression.zstd", "zstandard", "pyarrow"):
        try:
            package: Any = import_module(name)
        except ImportError:
            continue
        if name == "pyarrow":
            return cast(IO[bytes], package.input_stream(str(path), compression="zstd"))
        return cast(IO[bytes], package.open(path, "rb"))
    raise NotText(0, "is compressed by zstd, which needs a package: pip install zstandard; or unpack it")


_PACKED: tuple[tuple[bytes, str, Callable[[Path], IO[bytes]]], ...] = (
    (rb"\x1f\x8b\x08", "gzip", _gzip),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "bzip2", _bzip2),
    (rb"\xfd7zXZ\0", "xz", _xz),
    (rb"\x28\xb5\x2f\xfd", "zstd", _zstd),
)
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""How the names of compressed files end."""


def _packing(head: bytes) -> tuple[str, Callable[[Path], IO[bytes]]] | None:
    """The name of the compression that a file begins with, and what opens it."""
    return next(((name, opened) for begin, name, opened in _PACKED if re.match(begin, head)), None)


class Contents:
    """What a file holds, by its first bytes and some others.

    Args:
        path: the file.

    Raises:
        NotText: it is no text; says what it is.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD)
            self._packed = _packing(head)
            self.encoding = encoding_of(head)
            self.utf8 = True
            """Whether what was looked at is UTF-8, where the file is plain."""
            if self._packed is None:
                probes = [head]
                for start in (size // 2, size - _PROBE) if size > _HEAD + 2 * _PROBE else ():
                    file.seek(start)
                    probes.append(file.read(_PROBE))
                _check(head, probes, self.encoding)
                self.utf8 = not self.plain or all(map(_is_utf8, probes))

    @property
    def plain(self) -> bool:
        """Whether the bytes of the file are the text, apart from a mark of UTF-8."""
        return self._packed is None and self.encoding in ("utf-8", "utf-8-sig")

    @property
    def mark(self) -> int:
        """Bytes of the mark of UTF-8 at the beginning."""
        return len(codecs.BOM_UTF8) if self.plain and self.encoding == "utf-8-sig" else 0

    def chunks(self) -> Iterator[bytes]:
        """The text in UTF-8, piece by piece.

        Raises:
            NotText: it cannot be unpacked or decoded, or what is in it is no text.
            OSError: it cannot be read.
        """
        packed = self._packed
        try:
            with self.path.open("rb") if packed is None else packed[1](self.path) as file:
                head = file.read(_HEAD)
                if packed is not None and _packing(head) is not None:
                    raise NotText(0, "is compressed too; unpack it")
                _check(head, [head], encoding_of(head))
                yield from _recoded(head, file, encoding_of(head))
        except NotText as error:
            if packed is None:
                raise
            raise NotText(0, f"is compressed by {packed[0]}, and what is in it {error.reason}") from error
        except UnicodeDecodeError as error:
            raise NotText(0, f"is not {error.encoding}, as its mark says ({error.reason}); save it as UTF-8") from error
        except Exception as error:
            # The packages for zstd have errors of their own; a number is that of the system's.
            if packed is None or getattr(error, "errno", None) is not None:
                raise
            raise NotText(0, f"is compressed by {packed[0]}, and damaged or cut off: {error}") from error


def text_bytes(path: Path) -> bytes:
    """The text of a file in UTF-8; bytes that are no UTF-8 stay as they are.

    Raises:
        NotText: it is no text; says what it is.
        OSError: it cannot be read.
    """
    contents = Contents(path)
    if contents.plain:
        return path.read_bytes()[contents.mark :]
    parts, size = [], 0
    for chunk in contents.chunks():
        parts.append(chunk)
        size += len(chunk)
        if size > MAX_UNPACKED:
            raise NotText(0, f"unpacks to more than {MAX_UNPACKED >> 20} MiB")
    return b"".join(parts)


@dataclass(frozen=True)
class Place:
    """Where the text of a file can be read at any place.

    Args:
        path: the file itself, or a copy in the folder for temporary files, which is there until the process ends.
        before: bytes of the file before the text.
        utf8: whether what was looked at of a plain file is UTF-8.
    """

    path: Path
    before: int = 0
    utf8: bool = True


def readable(path: Path) -> Place:
    """Where the text of a file can be read.

    Raises:
        NotText: it is no text, or there is no room for a copy.
        OSError: it cannot be read.
    """
    contents = Contents(path)
    return Place(path, contents.mark, contents.utf8) if contents.plain else Place(_copied(contents))


_copies: dict[tuple[str, int, int], Path] = {}


def _copied(contents: Contents) -> Path:
    status = contents.path.stat()
    key = (str(contents.path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _copies:
        folder = _copy_folder()
        copy = folder / f"{len(os.listdir(folder))}.txt"
        try:
            with copy.open("wb") as out:
                for chunk in contents.chunks():
                    if shutil.disk_usage(folder).free < len(chunk) + _ROOM:
                        raise NotText(0, f"has no room for its unpacked text in {folder.parent}; set TMPDIR to another")
                    out.write(chunk)
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        _copies[key] = copy
    return _copies[key]


_folders: dict[int, Path] = {}


def _copy_folder() -> Path:
    """The folder of this process, which goes when the process ends; workers that were forked off leave it alone."""
    process = os.getpid()
    if process not in _folders:
        folder = Path(tempfile.mkdtemp(prefix="hrt-mm-text-"))
        _folders[process] = folder
        atexit.register(_remove, process)
    return _folders[process]


def _remove(process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(_folders[process], ignore_errors=True)


def _recoded(head: bytes, file: IO[bytes], encoding: str) -> Iterator[bytes]:
    if encoding in ("utf-8", "utf-8-sig"):
        yield head.removeprefix(codecs.BOM_UTF8)
        while chunk := file.read(_CHUNK):
            yield chunk
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    yield decoder.decode(head).encode()
    while chunk := file.read(_CHUNK):
        yield decoder.decode(chunk).encode()
    yield decoder.decode(b"", final=True).encode()


def _check(head: bytes, probes: list[bytes], encoding: str) -> None:
    if kind := next((kind for begin, kind in _KINDS if re.match(begin, head, re.DOTALL)), None):
        raise NotText(0, f"is {kind}")
    if encoding not in ("utf-8", "utf-8-sig"):
        return
    for probe in probes:
        if b"\0" in probe:
            even, odd = probe[::2].count(0), probe[1::2].count(0)
            utf16 = max(even, odd) > len(probe) // 3 and min(even, odd) < len(probe) // 10
            what = "is UTF-16 without a byte order mark; save it as UTF-8" if utf16 else "has NUL bytes, as no text has"
            raise NotText(0, what)
        controls = len(probe) - len(probe.translate(None, _CONTROL))
        if controls > _MANY * len(probe) and not _is_utf8(probe):
            raise NotText(0, "has control characters and bytes that are no UTF-8, as no text has")


def _is_utf8(probe: bytes) -> bool:
    """Whether bytes are UTF-8, apart from characters that are cut at both ends."""
    invalid = sum(0xDC80 <= ord(char) <= 0xDCFF for char in probe.decode("utf-8", "surrogateescape"))
    return invalid <= 2 * _CUT
