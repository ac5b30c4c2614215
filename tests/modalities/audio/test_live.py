"""Sound through pipes."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hrt_mm.core.errors import BadSample, UserError
from hrt_modalities.audio.live import live, raw_layout, read_layout


class Pipe(io.RawIOBase):
    """Gives a few bytes at a time, and cannot go back."""

    def __init__(self, data: bytes, size: int = 1000) -> None:
        self.data, self.size = io.BytesIO(data), size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        assert isinstance(buffer, memoryview)
        part = self.data.read(min(self.size, len(buffer)))
        buffer[: len(part)] = part
        return len(part)


def pipe(data: bytes, size: int = 1000) -> io.BufferedReader:
    return io.BufferedReader(Pipe(data, size), buffer_size=16)


def wav(tmp_path: Path, subtype: str, channels: int = 1, rate: int = 16000) -> tuple[bytes, np.ndarray]:
    x = 0.2 * np.random.default_rng(0).standard_normal((2345, channels)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", x, rate, subtype=subtype)
    read, _ = soundfile.read(tmp_path / "x.wav", dtype="float32", always_2d=True)
    return (tmp_path / "x.wav").read_bytes(), read.mean(1)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("channels", [1, 8])
def test_wav_streams_of_all_kinds(tmp_path: Path, subtype: str, channels: int) -> None:
    data, expected = wav(tmp_path, subtype, channels, 192_000)
    source = pipe(data, 777)
    layout = read_layout(source, "pipe")
    assert (layout.rate, layout.channels) == (192_000, channels)
    chunks = list(live(source, layout, "pipe", 0.001))
    assert max(map(len, chunks)) <= 192
    assert torch.allclose(torch.cat(chunks), torch.from_numpy(expected), atol=1e-6)


def test_lengths_that_writers_did_not_know(tmp_path: Path) -> None:
    data, expected = wav(tmp_path, "PCM_16")
    at = data.index(b"data") + 4
    for size in (0, 0x7FFF0000, 0xFFFFFFFF):
        source = pipe(data[:at] + struct.pack("<I", size) + data[at + 4 :])
        assert sum(map(len, live(source, read_layout(source, "pipe"), "pipe", 1.0))) == len(expected)


def test_what_follows_the_sound_is_no_sound(tmp_path: Path) -> None:
    data, expected = wav(tmp_path, "PCM_16")
    source = pipe(data + b"LIST" + struct.pack("<I", 4) + b"abcd")
    assert sum(map(len, live(source, read_layout(source, "pipe"), "pipe", 1.0))) == len(expected)


def test_raw_samples() -> None:
    x = np.arange(-50, 50, dtype="<i2") * 300
    layout = raw_layout(8000, 2, "s16")
    result = torch.cat(list(live(pipe(x.tobytes() + b"\x01"), layout, "pipe", 1.0)))
    assert torch.allclose(result, torch.from_numpy(x.reshape(-1, 2).mean(1) / 32768).float())
    with pytest.raises(UserError, match="unknown encoding 'mp3'; one of u8, s16"):
        raw_layout(8000, 1, "mp3")
    with pytest.raises(UserError, match="has 10 samples a second; rates go from 1000"):
        raw_layout(10)
    with pytest.raises(UserError, match="has 0 channels; from 1 to 64"):
        raw_layout(8000, 0)


def header(kind: int = 1, channels: int = 1, rate: int = 16000, bits: int = 16, frame: int | None = None) -> bytes:
    frame = channels * bits // 8 if frame is None else frame
    body = struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, bits)
    return b"RIFF" + struct.pack("<I", 0) + b"WAVEfmt " + struct.pack("<I", 16) + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty; nothing came"),
        (b"a text of some length\n", "is no wav stream; convert it"),
        (b"RIFF", "is no wav stream"),
        (header()[:20], "ends within its header"),
        (header(), "ends within its header"),
        (header(kind=85), "samples of kind 85 with 16 bits; convert it to 16-bit PCM"),
        (header(bits=12), "with 12 bits"),
        (header(channels=65), "has 65 channels; from 1 to 64"),
        (header(rate=0), "has 0 samples a second"),
        (header(frame=3), "says that a sample of 1 channels has 3 bytes, not 2"),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "has sound before it says of what kind"),
        (b"RIFF\0\0\0\0WAVEjunk\0\0\xff\x7f", "has no sound in its first"),
    ],
)
def test_what_is_no_wav_is_told(data: bytes, message: str) -> None:
    with pytest.raises(BadSample, match=message):
        read_layout(pipe(data), "pipe")


@pytest.mark.parametrize(
    ("sound", "promised", "message"),
    [
        (b"", 0, "has no samples"),
        (b"\0", 0, "has no samples"),
        (b"\0\0" * 10, 40, "is cut off: 20 of 40 bytes of sound came"),
    ],
)
def test_sound_that_ends_early_is_told_after_it(sound: bytes, promised: int, message: str) -> None:
    source = pipe(header() + b"data" + struct.pack("<I", promised) + sound)
    chunks = live(source, read_layout(source, "pipe"), "pipe", 1.0)
    came: list[int] = []
    with pytest.raises(BadSample, match=message):
        came.extend(map(len, chunks))
    assert sum(came) == len(sound) // 2


def test_samples_that_are_no_numbers_are_told() -> None:
    bad = np.array([0.1, np.nan], dtype="<f4").tobytes()
    with pytest.raises(BadSample, match="has nan at sample 1"):
        list(live(pipe(bad), raw_layout(8000, 1, "f32"), "pipe", 1.0))
