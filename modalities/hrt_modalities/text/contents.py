"""Reads text files: plain, compressed, or in another encoding.

Compressed text (gzip, bzip2, xz, zstd) is decompressed, and text with a byte order mark (UTF-8, UTF-16, UTF-32) is
converted to UTF-8. Other files are refused with the reason: archives, pictures, tables such as Parquet, and anything
with NUL bytes. Invalid UTF-8 is kept. Only the beginning, middle and end of a file are inspected, so that large corpora
open at once.
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
"""Bytes that are inspected at the beginning, and in the middle and at the end."""
_CHUNK = 1 << 22
"""Bytes that are decompressed at once."""
_ROOM = 1 << 28
"""Bytes of disk space that stay free."""
MAX_UNPACKED = 1 << 30
"""Limit in bytes of a compressed document that is decompressed in memory."""

_FILE_TYPES: tuple[tuple[bytes, str], ...] = (
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
"""Descriptions of file types, by their magic bytes. Each has a byte that text lacks, or is long."""
_CONTROL = bytes([*range(1, 8), *range(14, 27), *range(28, 32), 127])
"""Control characters that text lacks; those of terminals (bell, escape) are allowed."""
_INCOMPLETE = 3
"""Longest incomplete character of UTF-8 in bytes."""
_MAX_CONTROL = 0.02
"""Fraction of control characters above which invalid UTF-8 is not text."""


def _zstd(path: Path) -> IO[bytes]:
    """Opens zstd with Python 3.14, or with one of two packages."""
    for name in ("compression.zstd", "zstandard", "pyarrow"):
        try:
            package: Any = import_module(name)
        except ImportError:
            continue
        if name == "pyarrow":
            return cast(IO[bytes], package.input_stream(str(path), compression="zstd"))
        return cast(IO[bytes], package.open(path, "rb"))
    raise NotText(0, "is compressed by zstd, which needs a package: pip install zstandard; or unpack it")


_COMPRESSIONS: tuple[tuple[bytes, str, Callable[[Path], Any]], ...] = (
    (rb"\x1f\x8b\x08", "gzip", gzip.GzipFile),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "bzip2", bz2.BZ2File),
    (rb"\xfd7zXZ\0", "xz", lzma.LZMAFile),
    (rb"\x28\xb5\x2f\xfd", "zstd", _zstd),
)
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""Suffixes of compressed files."""


def _compression(head: bytes) -> tuple[str, Callable[[Path], Any]] | None:
    """The name and the opener of a file's compression."""
    return next(((name, open_file) for magic, name, open_file in _COMPRESSIONS if re.match(magic, head)), None)


class Contents:
    """A text file, with its encoding and compression.

    Args:
        path: the file.

    Raises:
        NotText: it is not text; names what it is.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD)
            self._compressed = _compression(head)
            self.encoding = encoding_of(head)
            self.utf8 = True
            """Whether the inspected parts are UTF-8, if the file is plain."""
            if self._compressed is None:
                probes = [head]
                for start in (size // 2, size - _PROBE) if size > _HEAD + 2 * _PROBE else ():
                    file.seek(start)
                    probes.append(file.read(_PROBE))
                _check(head, probes, self.encoding)
                self.utf8 = not self.plain or all(map(_is_utf8, probes))

    @property
    def plain(self) -> bool:
        """Whether the file is uncompressed and in UTF-8, with or without a byte order mark."""
        return self._compressed is None and self.encoding in ("utf-8", "utf-8-sig")

    @property
    def mark(self) -> int:
        """Length of the byte order mark of UTF-8."""
        return len(codecs.BOM_UTF8) if self.plain and self.encoding == "utf-8-sig" else 0

    def chunks(self) -> Iterator[bytes]:
        """The text in UTF-8, in chunks.

        Raises:
            NotText: it cannot be decompressed or decoded, or its content is not text.
            OSError: it cannot be read.
        """
        compressed = self._compressed
        try:
            with self.path.open("rb") if compressed is None else compressed[1](self.path) as file:
                head = file.read(_HEAD)
                if compressed is not None and _compression(head) is not None:
                    raise NotText(0, "is compressed too; unpack it")
                _check(head, [head], encoding_of(head))
                yield from _utf8_chunks(head, file, encoding_of(head))
        except NotText as error:
            if compressed is None:
                raise
            raise NotText(0, f"is compressed by {compressed[0]}, and what is in it {error.reason}") from error
        except UnicodeDecodeError as error:
            raise NotText(0, f"is not {error.encoding}, as its mark says ({error.reason}); save it as UTF-8") from error
        except Exception as error:
            # The packages for zstd have their own exceptions. Those with an errno come from the system.
            if compressed is None or getattr(error, "errno", None) is not None:
                raise
            raise NotText(0, f"is compressed by {compressed[0]}, and damaged or cut off: {error}") from error


def text_bytes(path: Path) -> bytes:
    """The text of a file in UTF-8; invalid UTF-8 is kept.

    Raises:
        NotText: it is not text; names what it is.
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
class SeekableText:
    """A file whose text can be read from any offset.

    Args:
        path: the file itself, or a decompressed copy in a temporary folder, which exists until the process ends.
        offset: of the text in the file, in bytes.
        utf8: whether the inspected parts of a plain file are UTF-8.
    """

    path: Path
    offset: int = 0
    utf8: bool = True


def seekable_text(path: Path) -> SeekableText:
    """The file, or a copy of its text where it is compressed or in another encoding.

    Raises:
        NotText: it is not text, or there is no disk space for a copy.
        OSError: it cannot be read.
    """
    contents = Contents(path)
    return SeekableText(path, contents.mark, contents.utf8) if contents.plain else SeekableText(_copied(contents))


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
    """The temporary folder of this process, which removes it at its end. Forked workers have one of their own."""
    process = os.getpid()
    if process not in _folders:
        folder = Path(tempfile.mkdtemp(prefix="hrt-mm-text-"))
        _folders[process] = folder

        def remove() -> None:
            # Forked workers inherit the exit handlers of their parent.
            if os.getpid() == process:
                shutil.rmtree(folder, ignore_errors=True)

        atexit.register(remove)
    return _folders[process]


def _utf8_chunks(head: bytes, file: IO[bytes], encoding: str) -> Iterator[bytes]:
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
    if kind := next((kind for magic, kind in _FILE_TYPES if re.match(magic, head, re.DOTALL)), None):
        raise NotText(0, f"is {kind}")
    if encoding not in ("utf-8", "utf-8-sig"):
        return
    for probe in probes:
        if b"\0" in probe:
            # Latin text in UTF-16 has a NUL in every other byte.
            even, odd = probe[::2].count(0), probe[1::2].count(0)
            utf16 = max(even, odd) > len(probe) // 3 and min(even, odd) < len(probe) // 10
            what = "is UTF-16 without a byte order mark; save it as UTF-8" if utf16 else "has NUL bytes, as no text has"
            raise NotText(0, what)
        controls = len(probe) - len(probe.translate(None, _CONTROL))
        if controls > _MAX_CONTROL * len(probe) and not _is_utf8(probe):
            raise NotText(0, "has control characters and bytes that are no UTF-8, as no text has")


def _is_utf8(probe: bytes) -> bool:
    """Whether bytes are UTF-8, apart from an incomplete character at each end."""
    # surrogateescape maps each invalid byte to a lone surrogate.
    invalid = sum(0xDC80 <= ord(char) <= 0xDCFF for char in probe.decode("utf-8", "surrogateescape"))
    return invalid <= 2 * _INCOMPLETE
