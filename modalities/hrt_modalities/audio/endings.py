"""Whether a sound file ends before its header says: the sizes that containers promise, weighed against the file.

A size is believed only where nothing contradicts it. Programs that write to a pipe put 0 or a huge number, and a header
that was edited disagrees with the one around it; neither says that data is missing.
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
"""Sizes of 32 bits from here on are written by programs that cannot know the length."""
_IMPLAUSIBLE = 1 << 42
"""The same for sizes of 64 bits: 4 TB."""
_MOST_CHUNKS = 10_000
_SEARCHED = 1 << 16
"""Bytes in which the first frame of an mp3, or the last page of an Ogg, is searched."""
_MP3_FRAME = (24, 2881)
"""Bytes of the smallest and the largest frame."""
_PAGE, _LAST_PAGE = b"OggS", 4
_TURNED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_W64_RIFF = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


class Promise(NamedTuple):
    """The size that a container declares, beside the size of the file.

    Attributes:
        there: bytes of the file.
        promised: bytes that the container declares.
        packets: audio packets that the container declares, if it does.
    """

    there: int
    promised: int
    packets: int | None = None

    def broken(self, packets: int) -> bool:
        """Whether the file is shorter, and had fewer packets of sound than it says."""
        return self.there < self.promised and (self.packets is None or packets < self.packets)


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


def promise(path: Path) -> Promise | None:
    """What a file's container says of its size; ``None`` where it says nothing that can be believed."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            promised, packets = _promised(file, size), None
            if promised is None and (mp3 := _mp3(file)) is not None:
                promised, packets = mp3
        except struct.error:
            return None
    return None if promised is None else Promise(size, promised, packets)


def read_stream_info(path: Path) -> StreamInfo | None:
    """The STREAMINFO of a FLAC file; ``None`` where it is not there."""
    with path.open("rb") as file:
        file.seek(_after_id3(file))
        head = file.read(42)
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F:
        return None
    packed = int.from_bytes(head[18:26], "big")
    return StreamInfo(packed & (1 << 36) - 1, (packed >> 36 & 31) + 1, head[26:42])


def broken_page(path: Path) -> int | None:
    """The byte of an Ogg file from which on pages are damaged or missing; ``None`` where all are whole.

    FFmpeg leaves out pages with a wrong checksum, so that what follows would come too early. Bytes behind the last page
    do no harm where that page says that it is the last one; a page that is cut off is for :func:`promise` to judge.
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
    """The CRC of Ogg: that of zlib with the order of bits turned round, and without its inversions."""
    turned = zlib.crc32(page.translate(_TURNED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{turned:032b}"[::-1], 2)


def _promised(file: BinaryIO, size: int) -> int | None:
    head = file.read(16)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _riff(file, "<" if head[:4] != b"RIFX" else ">", b"data")
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        (stated,) = struct.unpack("<I", head[4:8])
        return 8 + stated if 0 < stated < STREAMED else None
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
    """Both the file's chunk and that of the sound must promise what is not there."""
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
    # A writer that forgets the padding of an odd chunk, or a chunk behind the sound that is lost, is no loss of sound.
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
        if length < 0:
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
        if length < 24:
            return None
        file.seek(-(-length // 8) * 8 - 24, os.SEEK_CUR)
    return None


def _matroska(file: BinaryIO) -> int | None:
    file.seek(4)
    length = _vint(file)
    if length is None:
        return None
    file.seek(length, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return None
    length = _vint(file)
    return None if length is None or not 0 < length < _IMPLAUSIBLE else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """A size of EBML; ``None`` where it is unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    value = first[0] & ((1 << 8 - width) - 1)
    value = value << 8 * (width - 1) | int.from_bytes(file.read(width - 1), "big")
    return None if value == (1 << 7 * width) - 1 else value


def _ogg(file: BinaryIO, size: int) -> int | None:
    """Where the last page should end: pages say their size, and nothing does of the whole."""
    file.seek(max(0, size - _SEARCHED - 65_307))
    tail = file.read()
    position = tail.rfind(b"OggS")
    if position < 0 or len(tail) < position + 27:
        return size + 1
    segments = tail[position + 26]
    table = tail[position + 27 : position + 27 + segments]
    return size - len(tail) + position + 27 + segments + sum(table)


def _asf(file: BinaryIO) -> int | None:
    """Both the data object and the file's properties must promise what is not there."""
    (length,) = struct.unpack("<Q", file.read(8))
    header = file.read(min(length, 1 << 20))
    position = header.find(_ASF_PROPERTIES)
    if position < 0 or len(header) < position + 48:
        return None
    (packets,) = struct.unpack_from("<Q", header, position + 40)
    file.seek(length)
    kind, data = struct.unpack("<16sQ", file.read(24))
    if kind != _ASF_DATA or not 0 < data < _IMPLAUSIBLE or not packets:
        return None
    return int(min(length + data, packets))


def _mp3(file: BinaryIO) -> tuple[int, int] | None:
    """Where an mp3 ends and how many frames it has by its Xing or VBRI header, where both numbers can be true."""
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
        flags, frames, length = struct.unpack_from(">III", head, position + 4)
        if flags & 3 != 3:
            return None
    if not frames or not _MP3_FRAME[0] <= length / frames <= _MP3_FRAME[1]:
        return None
    return start + match.start() + length, frames


def _after_id3(file: BinaryIO) -> int:
    """Where a file begins behind its ID3v2 tag."""
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    a, b, c, d = (byte & 0x7F for byte in head[6:])
    return 10 + (a << 21 | b << 14 | c << 7 | d)
