"""Detects truncated sound files: the sizes that containers declare, compared with the sizes of the files.

A declared size counts only if nothing contradicts it. Programs that write to a pipe put 0 or a huge number, and an
edited header may disagree with the one around it; neither means that data is missing.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

STREAMED = 0x7FFF0000
"""32-bit sizes from here on are written by programs that do not know the length."""
_IMPLAUSIBLE = 1 << 42
"""The same for 64-bit sizes: 4 TB."""
_MOST_CHUNKS = 10_000
_SEARCHED = 1 << 16
"""Bytes that are searched for the first frame of an mp3, or for the last page of an Ogg file."""
_MP3_FRAME = (24, 2881)
"""Bytes of the smallest and the largest frame."""
_PAGE, _LAST_PAGE = b"OggS", 4
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


class DeclaredSize(NamedTuple):
    """The size that a container declares, beside the size of the file.

    Attributes:
        actual: bytes of the file.
        declared: bytes that the container declares.
        packets: audio packets that the container declares, if it does.
    """

    actual: int
    declared: int
    packets: int | None = None

    def is_truncated(self, packets: int) -> bool:
        """Whether the file is shorter than declared, and has fewer than the declared packets, if any are declared.

        Args:
            packets: of sound in the file.
        """
        return self.actual < self.declared and (self.packets is None or packets < self.packets)


class StreamInfo(NamedTuple):
    """The samples that the header of a FLAC file declares.

    Attributes:
        samples: their number; 0 if unknown.
        bits: bits per sample.
        md5: checksum of all samples; zeros if unknown.
    """

    samples: int
    bits: int
    md5: bytes


def declared_size(path: Path) -> DeclaredSize | None:
    """The size that a file's container declares; ``None`` if there is none, or none that can be true."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            declared, packets = _declared_end(file, size), None
            if declared is None and (mp3 := _mp3(file)) is not None:
                declared, packets = mp3
        except struct.error:
            return None
    return None if declared is None else DeclaredSize(size, declared, packets)


def read_stream_info(path: Path) -> StreamInfo | None:
    """The STREAMINFO block of a FLAC file; ``None`` if it has none."""
    with path.open("rb") as file:
        file.seek(_after_id3(file))
        head = file.read(42)
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F:
        return None
    # 20 bits of the rate, 3 of the channels less 1, 5 of the bits per sample less 1, and 36 of the number of samples.
    packed = int.from_bytes(head[18:26], "big")
    return StreamInfo(packed & (1 << 36) - 1, (packed >> 36 & 31) + 1, head[26:42])


def broken_page(path: Path) -> int | None:
    """The byte offset in an Ogg file of the first damaged or missing page; ``None`` if all pages are complete.

    FFmpeg drops pages with a wrong checksum, so that the sound after them would come too early. Bytes after a page that
    is marked as the last are harmless. A truncated last page is left to :func:`declared_size`.
    """
    status = path.stat()
    return _broken_page(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _broken_page(path: Path, size: int, changed: int) -> int | None:
    with path.open("rb") as file:
        position, is_last = max(0, file.read(_SEARCHED).find(_PAGE)), False
        while position < size:
            file.seek(position)
            head = file.read(27)
            table = file.read(head[26]) if len(head) == 27 else b""
            body = file.read(sum(table))
            complete = head[:4] == _PAGE and len(head) + len(table) + len(body) == 27 + head[26] + sum(table)
            if not complete:
                file.seek(position + 1)
                lost = _PAGE in file.read() or (head[:4] != _PAGE and not is_last)
                return position if lost else None
            if int.from_bytes(head[22:26], "little") != _page_sum(head[:22] + bytes(4) + head[26:] + table + body):
                return position
            position, is_last = file.tell(), bool(head[5] & _LAST_PAGE)
    return None


def _page_sum(page: bytes) -> int:
    """The CRC of Ogg: that of zlib with its bits in reverse order, and without its inversions."""
    reversed_crc = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reversed_crc:032b}"[::-1], 2)


def _declared_end(file: BinaryIO, size: int) -> int | None:
    """The byte at which a file should end."""
    head = file.read(16)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _riff(file, "<" if head[:4] != b"RIFX" else ">", b"data")
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        (length,) = struct.unpack("<I", head[4:8])
        return 8 + length if 0 < length < STREAMED else None
    if head[:8] == b"NIST_1A\n":
        return _nist(head + file.read(_SEARCHED))
    if head[:4] == b"FORM":
        return _riff(file, ">", b"SSND")
    if head[:4] == b".snd":
        start, length = struct.unpack(">II", head[4:12])
        return start + length if 0 < length < STREAMED else None
    if head[:4] == b"caff":
        return _caf(file)
    if head == _W64_RIFF:
        return _w64(file)
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return _matroska(file)
    if head[:4] == b"OggS":
        return _ogg(file, size)
    return _asf(file) if head == _ASF_HEADER else None


def _riff(file: BinaryIO, order: str, data_chunk: bytes) -> int | None:
    """The smaller of the ends of the chunk around the file and of the chunk of samples."""
    file.seek(4)
    (riff_size,) = struct.unpack(f"{order}I", file.read(4))
    file.seek(12)
    length = 0
    for _ in range(_MOST_CHUNKS):
        kind, length = struct.unpack(f"{order}4sI", file.read(8))
        if kind == b"ds64":
            riff_size, wide = struct.unpack("<QQ", file.read(16))
            return 20 + length + wide if 0 < wide < _IMPLAUSIBLE and riff_size >= wide else None
        if kind == data_chunk:
            break
        file.seek(length + length % 2, os.SEEK_CUR)
    end = file.tell() + length
    is_plausible = 0 < length < STREAMED and 0 < riff_size < STREAMED
    # The smaller one, because neither a missing pad byte nor a missing chunk after the samples is a loss of sound.
    return min(end, 8 + riff_size) if is_plausible else None


def _nist(head: bytes) -> int | None:
    fields = {key: int(value) for key, value in re.findall(rb"^(\w+) -i (\d{1,15})\s*$", head, re.MULTILINE)}
    factors = [fields.get(key) for key in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    size = re.match(rb"NIST_1A\n\s*(\d{1,9})\n", head)
    if size is None or None in factors or b"shorten" in head or b"-compressed" in head:
        return None
    return int(size[1]) + math.prod(number for number in factors if number is not None)


def _caf(file: BinaryIO) -> int | None:
    file.seek(8)
    for _ in range(_MOST_CHUNKS):
        kind, length = struct.unpack(">4sq", file.read(12))
        if kind == b"data":
            return file.tell() + length if 0 < length < _IMPLAUSIBLE else None
        if not 0 <= length < _IMPLAUSIBLE:
            return None
        file.seek(length, os.SEEK_CUR)
    return None


def _w64(file: BinaryIO) -> int | None:
    (file_size,) = struct.unpack("<Q", file.read(8))
    file.seek(40)
    for _ in range(_MOST_CHUNKS):
        kind, length = struct.unpack("<16sQ", file.read(24))
        if kind == _W64_DATA:
            end = file.tell() - 24 + length
            return min(end, file_size) if 24 < length < _IMPLAUSIBLE else None
        if not 24 <= length < _IMPLAUSIBLE:
            return None
        # Chunks are padded to 8 bytes, and their lengths include their headers.
        file.seek(-(-length // 8) * 8 - 24, os.SEEK_CUR)
    return None


def _matroska(file: BinaryIO) -> int | None:
    file.seek(4)
    length = _vint(file)
    if length is None or length >= _IMPLAUSIBLE:
        return None
    file.seek(length, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return None
    length = _vint(file)
    return None if length is None or not 0 < length < _IMPLAUSIBLE else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """A variable-length size of EBML; ``None`` if it is unknown, which all ones stand for."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    # The leading zeros of the first byte count the bytes that follow.
    width = 9 - first[0].bit_length()
    value = first[0] & ((1 << 8 - width) - 1)
    value = value << 8 * (width - 1) | int.from_bytes(file.read(width - 1), "big")
    return None if value == (1 << 7 * width) - 1 else value


def _ogg(file: BinaryIO, size: int) -> int | None:
    """The end of the last page: pages declare their sizes, but no header declares that of the file."""
    # 65,307 bytes are the largest page: 27 of its header, 255 of its table, and 255 segments of 255.
    file.seek(max(0, size - _SEARCHED - 65_307))
    tail = file.read()
    position = tail.rfind(b"OggS")
    if position < 0 or len(tail) < position + 27:
        return size + 1
    segments = tail[position + 26]
    table = tail[position + 27 : position + 27 + segments]
    return size - len(tail) + position + 27 + segments + sum(table)


def _asf(file: BinaryIO) -> int | None:
    """The smaller of the ends by the data object and by the file's properties."""
    (length,) = struct.unpack("<Q", file.read(8))
    header = file.read(min(length, 1 << 20))
    if length >= _IMPLAUSIBLE:
        return None
    position = header.find(_ASF_PROPERTIES)
    if position < 0 or len(header) < position + 48:
        return None
    (file_size,) = struct.unpack_from("<Q", header, position + 40)
    file.seek(length)
    kind, data_size = struct.unpack("<16sQ", file.read(24))
    if kind != _ASF_DATA or not 0 < data_size < _IMPLAUSIBLE or not file_size:
        return None
    return int(min(length + data_size, file_size))


def _mp3(file: BinaryIO) -> tuple[int, int] | None:
    """The end and the number of frames that a Xing or VBRI header declares, if both are plausible."""
    start = _after_id3(file)
    file.seek(start)
    head = file.read(_SEARCHED)
    match = re.search(rb"\xff[\xe2-\xff][^\xff].{1,240}?(Xing|Info|VBRI)", head[:8192], re.DOTALL)
    if match is None:
        return None
    position = match.start(1)
    if match[1] == b"VBRI":
        length, frames = struct.unpack_from(">II", head, position + 10)
    else:
        # The first two flags say that the number of frames and the length are given.
        flags, frames, length = struct.unpack_from(">III", head, position + 4)
        if flags & 3 != 3:
            return None
    if not frames or not _MP3_FRAME[0] <= length / frames <= _MP3_FRAME[1]:
        return None
    return start + match.start() + length, frames


def _after_id3(file: BinaryIO) -> int:
    """The byte after a file's ID3v2 tag; 0 without one."""
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    # Four bytes with 7 bits each, so that a size never looks like the start of a frame.
    a, b, c, d = (byte & 0x7F for byte in head[6:])
    return 10 + (a << 21 | b << 14 | c << 7 | d)
