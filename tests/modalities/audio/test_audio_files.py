from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hrt_mm.core.errors import BadSample
from hrt_modalities.audio.audio import Audio, check_audio
from hrt_modalities.audio.files import blocks, read_audio, read_header

KINDS = [
    ("wav", "WAV", "PCM_16", 1e-4),
    ("wav", "WAV", "PCM_24", 1e-6),
    ("wav", "WAV", "FLOAT", 0.0),
    ("flac", "FLAC", "PCM_16", 1e-4),
    ("ogg", "OGG", "VORBIS", 0.1),
    ("opus", "OGG", "OPUS", 0.1),
    ("mp3", "MP3", "MPEG_LAYER_III", 0.1),
]


def tone(seconds: float = 1.0, rate: int = 16000, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path: Path, wave: np.ndarray | None = None, rate: int = 16000, **kind: str) -> Path:
    soundfile.write(path, tone() if wave is None else wave, rate, **kind)
    return path


@pytest.mark.parametrize(("suffix", "form", "subtype", "error"), KINDS, ids=[f"{kind[0]}-{kind[2]}" for kind in KINDS])
def test_parts_are_those_of_the_whole(suffix: str, form: str, subtype: str, error: float, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{suffix}", format=form, subtype=subtype)
    whole = read_audio(path, "a")
    # Opus is decoded at 48 kHz, whatever it was made from.
    rate = 48000 if subtype == "OPUS" else 16000
    # FFmpeg leaves a little of what fills up the last packet of Vorbis.
    more = 128 if subtype == "VORBIS" else 0
    assert whole.rate == rate and len(whole.waveform_S) == rate + more
    assert abs(read_header(path, "a").samples - len(whole.waveform_S)) <= 2 * more
    assert float((whole.waveform_S[:rate] - torch.from_numpy(tone(rate=rate)))[1600:-1600].abs().max()) <= error
    part = read_audio(path, "a", offset=0.5, duration=0.25)
    assert part.seconds == 0.25
    assert torch.equal(part.waveform_S, whole.waveform_S[rate // 2 : 3 * rate // 4])
    rest = read_audio(path, "a", offset=0.9)
    assert torch.equal(rest.waveform_S, whole.waveform_S[round(0.9 * rate) :])
    together = torch.cat([block.waveform_S for block in blocks(path, "a", 0.3)])
    assert torch.equal(together, whole.waveform_S)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (192000, 8), (11025, 3)])
def test_any_rate_and_channels(rate: int, channels: int, tmp_path: Path) -> None:
    wave = np.stack([tone(0.1, rate, 200.0 * (1 + channel)) for channel in range(channels)], 1)
    audio = read_audio(write(tmp_path / "a.flac", wave, rate), "a")
    assert audio.rate == rate
    assert np.allclose(audio.waveform_S.numpy(), wave.mean(1), atol=1e-4)


def test_a_part_of_a_long_file_reads_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav", np.zeros(600 * 8000, dtype=np.int16), 8000)
    frames: list[int] = []
    read = soundfile.SoundFile.read

    def counted(file: soundfile.SoundFile, count: int = -1, **options: object) -> np.ndarray:
        frames.append(count)
        return read(file, count, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    assert read_audio(path, "a", offset=300, duration=0.5).seconds == 0.5
    assert frames == [4000]


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_long_files_take_the_memory_of_a_part(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"long.{suffix}"
    with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_16") as file:
        for _ in range(20):
            file.write(np.zeros(30 * 8000, dtype=np.int16))
    read_audio(path, "a", duration=0.5)
    tracemalloc.start()
    try:
        assert read_audio(path, "a", offset=590, duration=0.5).seconds == 0.5
        part = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        assert sum(block.seconds for block in blocks(path, "a", seconds=2.0)) == 600
        streamed = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Ten minutes are 19 MB as float32; half a second is 16 kB, and two seconds are 64 kB.
    assert part < 200_000 and streamed < 500_000, (part, streamed)


def cut(path: Path, part: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    return path


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_truncated_file(suffix: str, tmp_path: Path) -> None:
    path = cut(write(tmp_path / f"a.{suffix}", np.random.default_rng(0).normal(0, 0.1, 48000)), 0.6)
    with pytest.raises(BadSample, match="cut off"):
        read_audio(path, "the name")


def test_a_wav_from_a_pipe_has_no_length(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4
    path.write_bytes(content)
    assert len(read_audio(path, "a").waveform_S) == 16000


def test_broken_files_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with pytest.raises(BadSample, match=r"the name: cannot be read: No such file"):
        read_audio(path, "the name")
    path.write_bytes(b"")
    with pytest.raises(BadSample, match="empty file"):
        read_audio(path, "a")
    path.write_text("a text with the ending of a sound\n" * 9)
    with pytest.raises(BadSample, match="is not a sound file that can be read"):
        read_header(path, "a")
    content = write(path).read_bytes()
    path.write_bytes(b"RIFX" + content[4:])
    with pytest.raises(BadSample, match="a: "):
        read_audio(path, "a")
    write(path, np.empty(0))
    with pytest.raises(BadSample, match="no samples"):
        read_audio(path, "a")
    wave = tone()
    wave[123] = np.nan
    write(path, wave, subtype="FLOAT")
    with pytest.raises(BadSample, match="nan at sample 123"):
        read_audio(path, "a")
    with pytest.raises(BadSample, match=r"cannot be read: it is not a file"):
        read_audio(tmp_path, "a")


@pytest.mark.parametrize(
    ("offset", "duration", "message"),
    [
        (1.5, None, "no samples: the file lasts 1.0000 s"),
        (0.5, 0.7, "past the end"),
        (-1, None, "0 or more"),
        (float("nan"), None, "0 or more"),
        (0, 0, "more than 0"),
        (0, -3, "more than 0"),
    ],
)
def test_impossible_parts(offset: float, duration: float | None, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav")
    with pytest.raises(BadSample, match=message):
        read_audio(path, "a", offset, duration)


def test_values_are_checked() -> None:
    wave = torch.zeros(1600)
    assert check_audio(Audio(wave, 16000, {"words": (0.0, 0.05)}), "a").seconds == 0.1
    for value, message in [
        (wave, "not sound"),
        (Audio(wave.double(), 16000), "float64"),
        (Audio(wave.view(2, -1), 16000), "channels averaged"),
        (Audio(torch.empty(0), 16000), "no samples"),
        (Audio(wave, 10), "rates go from"),
        (Audio(wave, 16000, {"words": (0.05, 0.01)}), "sort the times"),
        (Audio(wave, 16000, {"words": (0.0, 3.0)}), "times of another file"),
        (Audio(wave, 16000, {"words": (-1.0,)}), "0 or later"),
        (Audio(wave, 16000, {"words": (float("nan"),)}), "0 or later"),
    ]:
        with pytest.raises(BadSample, match=message):
            check_audio(value, "a")
