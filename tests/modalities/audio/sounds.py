"""Makes small sound files of many codecs and containers, and puts defects into their headers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def wave(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """(C, S) a tone that rises, with some noise."""
    time_S = np.arange(round(seconds * rate)) / rate
    sound_S = 0.3 * np.sin(2 * np.pi * (300 + 200 * time_S) * time_S)
    sound_S += np.random.default_rng(0).normal(0, 0.05, len(time_S))
    return np.stack([sound_S * (1 - 0.3 * channel) for channel in range(channels)]).astype(np.float32)


def encode(
    path: Path,
    codec: str,
    wave_CS: np.ndarray,
    rate: int,
    *,
    container: str | None = None,
    options: dict[str, str] | None = None,
    codec_options: dict[str, str] | None = None,
    bit_rate: int | None = None,
) -> Path:
    """Writes a file with FFmpeg."""
    layout = LAYOUTS[len(wave_CS)]
    with av.open(str(path), "w", format=container, options=options or {}) as file:
        stream: Any = file.add_stream(codec, rate=rate, options=codec_options or {})
        stream.layout = layout
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave_CS), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def decoded(path: Path) -> tuple[int, int]:
    """Samples and rate that FFmpeg gives when it decodes all packets and goes on past those that fail."""
    count = rate = 0
    with av.open(str(path)) as file:
        stream = file.streams.best("audio")
        assert stream is not None
        for packet in file.demux(stream):
            try:
                frames: list[Any] = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                rate = rate or frame.sample_rate
                count += frame.samples
    return count, rate


def patched(data: bytes, *positions: tuple[int, bytes]) -> bytes:
    """Bytes with others at some places."""
    result = bytearray(data)
    for index, new in positions:
        result[index : index + len(new)] = new
    return bytes(result)


def after(data: bytes, key: bytes, skip: int = 0) -> int:
    """The place behind a mark."""
    return data.index(key) + len(key) + skip


def crc(data: bytes, width: int, polynomial: int) -> int:
    """A checksum as Ogg and FLAC have them: highest bit first, from zero."""
    top, mask, value = 1 << width - 1, (1 << width) - 1, 0
    for byte in data:
        value ^= byte << width - 8
        for _ in range(8):
            value = ((value << 1) ^ polynomial if value & top else value << 1) & mask
    return value


def pages(data: bytes) -> Iterator[tuple[int, int]]:
    """Begin and length of the pages of an Ogg."""
    index = 0
    while index < len(data):
        segments = data[index + 26]
        length = 27 + segments + sum(data[index + 27 : index + 27 + segments])
        yield index, length
        index += length


def regranuled(data: bytes, change: Callable[[int, int, int], int]) -> bytes:
    """An Ogg with other granule positions: ``change(granule, number of the page, number of pages)``."""
    result, positions = bytearray(data), list(pages(data))
    for number, (index, length) in enumerate(positions):
        (granule,) = struct.unpack_from("<q", result, index + 6)
        new = change(granule, number, len(positions))
        if new == granule:
            continue
        struct.pack_into("<q", result, index + 6, new)
        struct.pack_into("<I", result, index + 22, 0)
        struct.pack_into("<I", result, index + 22, crc(bytes(result[index : index + length]), 32, 0x04C11DB7))
    return bytes(result)


def flac(*blocks: tuple[np.ndarray, int, int], total: int = 0, md5: bytes = bytes(16)) -> bytes:
    """A FLAC of blocks that are not compressed: of each the integers (C, S), the rate and the bits."""
    first, rate, bits = blocks[0]
    longest = max(block.shape[1] for block, _, _ in blocks)
    packed = rate << 44 | (len(first) - 1) << 41 | (bits - 1) << 36 | total
    info = struct.pack(">HH", longest, longest) + bytes(6) + packed.to_bytes(8, "big") + md5
    frames = [_frame(number, *block) for number, block in enumerate(blocks)]
    return b"fLaC\x80\x00\x00\x22" + info + b"".join(frames)


def _frame(number: int, block_CS: np.ndarray, rate: int, bits: int) -> bytes:
    assert number < 128
    sizes = {8: 1, 12: 2, 16: 4, 20: 5, 24: 6}
    header = struct.pack(">HBB", 0xFFF8, 0x7D, (len(block_CS) - 1) << 4 | sizes[bits] << 1)
    header += struct.pack(">BHH", number, block_CS.shape[1] - 1, rate)
    header += bytes([crc(header, 8, 0x07)])
    channels = [format(sample & (1 << bits) - 1, f"0{bits}b") for channel in block_CS.tolist() for sample in channel]
    size = block_CS.shape[1]
    text = "".join("00000010" + "".join(channels[index : index + size]) for index in range(0, len(channels), size))
    text += "0" * (-len(text) % 8)
    body = header + int(text, 2).to_bytes(len(text) // 8, "big")
    return body + struct.pack(">H", crc(body, 16, 0x8005))
