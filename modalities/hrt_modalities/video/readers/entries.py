"""Finds the packets at which decoding may start and give the same frames as from the beginning.

The key flag of a container may be wrong. A packet is an entry point only by its bitstream: an IDR picture or an exact
recovery point of H.264, an IRAP picture of HEVC, an I picture after a sequence header of MPEG-1 and 2, an I-VOP of
MPEG-4 part 2, a key frame of VP8, VP9 or AV1, and any packet of an intra-only codec. Frames that follow such a packet
in the stream and precede it in presentation order (leading pictures) may refer to frames before it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ADVANCED = frozenset({"h264", "hevc"})
_START = b"\x00\x00\x01"


@dataclass(frozen=True)
class PacketInfo:
    """Properties of a packet, parsed from its bitstream.

    Args:
        entry: decoding may start here.
        displayed: it has a frame that is displayed.
        regular: it has exactly one frame. Otherwise the frames of a file are known only by decoding it.
        parameters: checksum of its parameter sets; 0 if it has none.
    """

    entry: bool = False
    displayed: bool = True
    regular: bool = True
    parameters: int = 0


Parser = Callable[[memoryview, bool], PacketInfo]
"""Parses the data of a packet, given whether its container flags it as a key frame."""
_PLAIN, _ENTRY, _HIDDEN, _IRREGULAR = (
    PacketInfo(),
    PacketInfo(True),
    PacketInfo(displayed=False),
    PacketInfo(regular=False),
)


def parser_for(codec: str, extradata: bytes, *, intra: bool) -> Parser | None:
    """The parser for packets of a codec; ``None`` for codecs whose packets may have any number of frames.

    Args:
        codec: FFmpeg's name.
        extradata: the stream's header from the container; tells how NAL units are separated.
        intra: whether the codec is intra-only.
    """
    if intra:
        return lambda data, key: _ENTRY
    if codec not in ADVANCED:
        return _PARSERS.get(codec)
    # The avcC and hvcC boxes begin with version 1; the lowest bits of this byte are the size of lengths, less 1.
    position = 4 if codec == "h264" else 21
    length_bytes = (extradata[position] & 3) + 1 if len(extradata) > position and extradata[0] == 1 else 0
    parse = _h264 if codec == "h264" else _hevc

    def parse_key(data: memoryview, key: bool) -> PacketInfo:
        if not key:
            return _PLAIN
        entry, parameters = parse(list(_nal_units(bytes(data), length_bytes)))
        return PacketInfo(entry, parameters=zlib.crc32(parameters) | 1 if parameters else 0)

    return parse_key


def _nal_units(data: bytes, length: int) -> Iterator[bytes]:
    """NAL units, each after its length in so many bytes, or between start codes if that is 0."""
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
    # Types of NAL units (H.264, table 7-1): 1 and 2 are slices, 5 of an IDR picture, 6 SEI, 7 and 8 parameter sets.
    parameters = b"".join(unit for unit in units if unit[0] & 31 in (7, 8))
    picture = next((unit for unit in units if unit[0] & 31 in (1, 2, 5)), None)
    if picture is None:
        return False, parameters
    if picture[0] & 31 == 5:
        return True, parameters
    # The slice header begins with first_mb_in_slice and slice_type, of which 2 and 4 (modulo 5) are I and SI.
    bits = _Bits(_unescaped(picture[1:16]))
    bits.golomb()
    is_intra = bits.golomb() % 5 in (2, 4)
    return is_intra and any(_recovers(unit) for unit in units if unit[0] & 31 == 6), parameters


def _recovers(unit: bytes) -> bool:
    """Whether an SEI message of H.264 declares exact decoding from this picture on (a recovery point of 0 frames)."""
    data = _unescaped(unit[1:])
    position = 0
    while position + 2 < len(data):
        # The type and the size of a message; both are a sum of bytes, of which all but the last are 255.
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
    # Types of NAL units (H.265, table 7-1): below 32 are slices, 16 to 21 of IRAP pictures, 32 to 34 parameter sets.
    kinds = [unit[0] >> 1 & 63 for unit in units]
    parameters = b"".join(unit for unit, kind in zip(units, kinds, strict=True) if kind in (32, 33, 34))
    picture = next((kind for kind in kinds if kind < 32), None)
    return picture is not None and 16 <= picture <= 21, parameters


def _mpeg2(data: memoryview, key: bool) -> PacketInfo:
    if not key:
        return _PLAIN
    raw = bytes(data)
    # In a picture header, picture_coding_type follows 10 bits of temporal_reference; 1 is I.
    position = raw.find(_START + b"\x00")
    is_intra = 0 <= position < len(raw) - 5 and raw[position + 5] >> 3 & 7 == 1
    return _ENTRY if is_intra and _START + b"\xb3" in raw[:position] else _PLAIN


def _mpeg4(data: memoryview, key: bool) -> PacketInfo:
    raw = bytes(data)
    position = raw.find(_START + b"\xb6")
    # Packed bitstreams have two frames in one packet, and an empty one of a few bytes in a later packet.
    if position < 0 or len(raw) - position <= 8 or raw.find(_START + b"\xb6", position + 1) >= 0:
        return _IRREGULAR
    return _ENTRY if key and raw[position + 4] >> 6 == 0 else _PLAIN


def _vp8(data: memoryview, key: bool) -> PacketInfo:
    # The frame tag: the lowest bit is 0 for key frames, bit 4 is show_frame.
    if not data[0] >> 4 & 1:
        return _HIDDEN
    return _ENTRY if not data[0] & 1 else _PLAIN


def _vp9(data: memoryview, key: bool) -> PacketInfo:
    # The uncompressed header: frame marker, profile (with a reserved bit after profile 3), show_existing_frame,
    # frame_type (0 for key frames), show_frame.
    bits = _Bits(bytes(data[:2]))
    if bits.read(2) != 2:
        return _IRREGULAR
    if bits.read(1) + 2 * bits.read(1) == 3:
        bits.read(1)
    if bits.read(1):
        return _PLAIN
    is_key, is_displayed = bits.read(1) == 0, bits.read(1)
    # A superframe ends with an index of its frames, one of which is displayed.
    if not is_displayed and data[-1] & 0xE0 != 0xC0:
        return _HIDDEN
    return _ENTRY if is_key else _PLAIN


def _av1(data: memoryview, key: bool) -> PacketInfo:
    if not key:
        return _PLAIN
    position, sequence = 0, False
    while position < len(data):
        # The header of an OBU: type, whether it has an extension, and whether it has a size.
        kind, extended, sized = data[position] >> 3 & 15, data[position] >> 2 & 1, data[position] >> 1 & 1
        position += 1 + extended
        size, shift = len(data) - position, 0
        if sized:
            # LEB128: 7 bits per byte, the lowest first; the highest bit says that another byte follows.
            size = 0
            while position < len(data):
                byte = data[position]
                size, shift, position = size | (byte & 127) << shift, shift + 7, position + 1
                if not byte & 128:
                    break
        if kind == 1:
            sequence = True
        if kind in (3, 6) and position < len(data):
            # show_existing_frame 0, frame_type 0 (key frame), show_frame 1.
            return _ENTRY if sequence and data[position] >> 4 == 0b0001 else _PLAIN
        position += size
    return _PLAIN


_PARSERS: dict[str, Parser] = {
    "mpeg1video": _mpeg2,
    "mpeg2video": _mpeg2,
    "mpeg4": _mpeg4,
    "vp8": _vp8,
    "vp9": _vp9,
    "av1": _av1,
    "ffv1": lambda data, key: _ENTRY if key else _PLAIN,
}


def _unescaped(data: bytes) -> bytes:
    """The payload of a NAL unit, without the bytes that keep it from containing a start code."""
    return data.replace(b"\x00\x00\x03", b"\x00\x00")


class _Bits:
    """Reads bits, the highest of each byte first; zeros after the end."""

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
