"""Where decoding may start: packets from which on a decoder gives what it gives when it reads from the beginning.

The key flag of a container is a claim. A packet counts as an entry point only if its bitstream says so: an IDR or an
exact recovery point of H.264, an IRAP picture of HEVC, an I picture behind a sequence header of MPEG-1 and 2, an I-VOP
of MPEG-4 part 2, a key frame of VP8, VP9 or AV1, and each packet of a codec without prediction over time. Frames that
follow such a packet in the stream and are shown before it (leading pictures) may refer to what precedes it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ADVANCED = frozenset({"h264", "hevc"})
_START = b"\x00\x00\x01"


@dataclass(frozen=True)
class Looked:
    """What the bytes of a packet say.

    Args:
        entry: decoding may start here.
        shown: it holds a frame that is shown.
        regular: it holds exactly one frame. If not, only decoding tells which frames a file has.
        parameters: checksum of the parameter sets in it; 0 if there are none.
    """

    entry: bool = False
    shown: bool = True
    regular: bool = True
    parameters: int = 0


Look = Callable[[memoryview, bool], Looked]
"""Looks at the data of a packet, given whether its container flags it as a key frame."""
_PLAIN, _ENTRY, _HIDDEN, _IRREGULAR = Looked(), Looked(True), Looked(shown=False), Looked(regular=False)


def look_for(codec: str, extradata: bytes, *, intra: bool) -> Look | None:
    """How packets of a codec are looked at; ``None`` for codecs of which one packet may be other than one frame.

    Args:
        codec: FFmpeg's name.
        extradata: what its container says of the stream; tells how NAL units are separated.
        intra: whether each frame is coded on its own.
    """
    if intra:
        return _intra
    if codec in ADVANCED:
        position = 4 if codec == "h264" else 21
        length = (extradata[position] & 3) + 1 if len(extradata) > position and extradata[0] == 1 else 0
        kind = _h264 if codec == "h264" else _hevc
        return lambda data, key: _advanced(data, length, kind) if key else _PLAIN
    return _KINDS.get(codec)


def _intra(data: memoryview, key: bool) -> Looked:
    return _ENTRY


def _flagged(data: memoryview, key: bool) -> Looked:
    return _ENTRY if key else _PLAIN


def _advanced(data: memoryview, length: int, kind: Callable[[list[bytes]], tuple[bool, bytes]]) -> Looked:
    entry, parameters = kind(list(_units(bytes(data), length)))
    return Looked(entry, parameters=zlib.crc32(parameters) | 1 if parameters else 0)


def _units(data: bytes, length: int) -> Iterator[bytes]:
    """NAL units, each after its length in so many bytes, or between start codes where that is 0."""
    if not length:
        yield from (part for part in data.split(_START)[1:] if part)
        return
    position = 0
    while position + length < len(data):
        size = int.from_bytes(data[position : position + length], "big")
        if unit := data[position + length : position + length + size]:
            yield unit
        position += length + size


def _h264(units: list[bytes]) -> tuple[bool, bytes]:
    parameters = b"".join(unit for unit in units if unit[0] & 31 in (7, 8))
    picture = next((unit for unit in units if unit[0] & 31 in (1, 2, 5)), None)
    if picture is None:
        return False, parameters
    if picture[0] & 31 == 5:
        return True, parameters
    bits = _Bits(_unescaped(picture[1:16]))
    bits.golomb()
    within_itself = bits.golomb() % 5 in (2, 4)
    return within_itself and any(_recovers(unit) for unit in units if unit[0] & 31 == 6), parameters


def _recovers(unit: bytes) -> bool:
    """Whether an SEI message of H.264 promises that all is exact from this picture on."""
    data = _unescaped(unit[1:])
    position = 0
    while position + 2 < len(data):
        numbers = []
        for _ in range(2):
            number = 0
            while position < len(data) and data[position] == 255:
                number, position = number + 255, position + 1
            if position >= len(data):
                return False
            numbers.append(number + data[position])
            position += 1
        kind, size = numbers
        if kind == 6:
            bits = _Bits(data[position : position + size])
            return bits.golomb() == 0 and bits.read(1) == 1
        position += size
    return False


def _hevc(units: list[bytes]) -> tuple[bool, bytes]:
    kinds = [unit[0] >> 1 & 63 for unit in units]
    parameters = b"".join(unit for unit, kind in zip(units, kinds, strict=True) if kind in (32, 33, 34))
    picture = next((kind for kind in kinds if kind < 32), None)
    return picture is not None and 16 <= picture <= 21, parameters


def _mpeg2(data: memoryview, key: bool) -> Looked:
    if not key:
        return _PLAIN
    raw = bytes(data)
    position = raw.find(_START + b"\x00")
    within_itself = 0 <= position < len(raw) - 5 and raw[position + 5] >> 3 & 7 == 1
    return _ENTRY if within_itself and _START + b"\xb3" in raw[:position] else _PLAIN


def _mpeg4(data: memoryview, key: bool) -> Looked:
    raw = bytes(data)
    position = raw.find(_START + b"\xb6")
    # Packed streams put two frames into a packet and an empty one, of some bytes, into a later one.
    if position < 0 or len(raw) - position <= 8 or raw.find(_START + b"\xb6", position + 1) >= 0:
        return _IRREGULAR
    return _ENTRY if key and raw[position + 4] >> 6 == 0 else _PLAIN


def _vp8(data: memoryview, key: bool) -> Looked:
    if not data[0] >> 4 & 1:
        return _HIDDEN
    return _ENTRY if not data[0] & 1 else _PLAIN


def _vp9(data: memoryview, key: bool) -> Looked:
    bits = _Bits(bytes(data[:2]))
    if bits.read(2) != 2:
        return _IRREGULAR
    if bits.read(1) + 2 * bits.read(1) == 3:
        bits.read(1)
    if bits.read(1):
        return _PLAIN
    within_itself, is_shown = bits.read(1) == 0, bits.read(1)
    # Several frames in one packet end with an index of them; one of them is shown.
    if not is_shown and data[-1] & 0xE0 != 0xC0:
        return _HIDDEN
    return _ENTRY if within_itself else _PLAIN


def _av1(data: memoryview, key: bool) -> Looked:
    if not key:
        return _PLAIN
    position, sequence = 0, False
    while position < len(data):
        kind, extended, sized = data[position] >> 3 & 15, data[position] >> 2 & 1, data[position] >> 1 & 1
        position += 1 + extended
        size, shift = len(data) - position, 0
        if sized:
            size = 0
            while position < len(data):
                byte = data[position]
                size, shift, position = size | (byte & 127) << shift, shift + 7, position + 1
                if not byte & 128:
                    break
        if kind == 1:
            sequence = True
        if kind in (3, 6) and position < len(data):
            # Not a frame that is shown again, a key frame, shown.
            return _ENTRY if sequence and data[position] >> 4 == 0b0001 else _PLAIN
        position += size
    return _PLAIN


_KINDS: dict[str, Look] = {
    "mpeg1video": _mpeg2,
    "mpeg2video": _mpeg2,
    "mpeg4": _mpeg4,
    "vp8": _vp8,
    "vp9": _vp9,
    "av1": _av1,
    "ffv1": _flagged,
}


def _unescaped(data: bytes) -> bytes:
    return data.replace(b"\x00\x00\x03", b"\x00\x00")


class _Bits:
    """Bits of some bytes from the first one on; zeros after the end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        """The next bits as a number."""
        self._left -= count
        if self._left < 0:
            return 0
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """An Exp-Golomb code."""
        zeros = 0
        while self._left > 0 and not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
