"""Sound that FFmpeg leaves out without an error is missed."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from hrt_mm.core.errors import BadSample
from hrt_modalities.audio.endings import broken_page
from hrt_modalities.audio.files import blocks, read_audio
from tests.modalities.audio.sounds import encode, pages, patched, wave

OGG = [("libopus", 48000), ("vorbis", 16000), ("flac", 16000)]


def ogg(path: Path, codec: str, rate: int) -> tuple[bytes, list[tuple[int, int]]]:
    if codec == "vorbis":  # not every FFmpeg encodes it
        soundfile.write(path, wave(4.0, rate)[0], rate, format="OGG", subtype="VORBIS")
    else:
        encode(path, codec, wave(4.0, rate), rate, container="ogg")
    data = path.read_bytes()
    return data, list(pages(data))


@pytest.mark.parametrize(("codec", "rate"), OGG)
def test_whole_ogg_is_read(tmp_path: Path, codec: str, rate: int) -> None:
    path = tmp_path / "sound.ogg"
    data, _ = ogg(path, codec, rate)
    path.write_bytes(data + b"TAG" + bytes(125))
    assert broken_page(path) is None
    assert read_audio(path, "sound").seconds == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize(("codec", "rate"), OGG)
@pytest.mark.parametrize("page", [-2, -1])
def test_ogg_page_with_a_wrong_checksum(tmp_path: Path, codec: str, rate: int, page: int) -> None:
    path = tmp_path / "sound.ogg"
    data, result = ogg(path, codec, rate)
    begin, length = result[page]
    middle = begin + length // 2
    path.write_bytes(patched(data, (middle, bytes([data[middle] ^ 1]))))
    assert broken_page(path) == begin
    for read in (lambda: read_audio(path, "clip"), lambda: list(blocks(path, "clip", 1.0))):
        with pytest.raises(BadSample, match=f"clip: is damaged: its page at byte {begin:,} is broken; fetch it again"):
            read()


@pytest.mark.parametrize("page", [-2, -1])
def test_ogg_page_whose_head_is_lost(tmp_path: Path, page: int) -> None:
    path = tmp_path / "sound.ogg"
    data, result = ogg(path, "libopus", 48000)
    path.write_bytes(patched(data, (result[page][0], bytes(30))))
    with pytest.raises(BadSample, match="clip: is damaged: its page"):
        read_audio(path, "clip")


def test_part_before_the_damage_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sound.ogg"
    data, _ = ogg(path, "libopus", 48000)
    path.write_bytes(patched(data, (len(data) - 30, bytes(10))))
    assert read_audio(path, "clip", 0.1, 0.5).seconds == pytest.approx(0.5)


def test_fewer_samples_than_a_lossless_header_counts(tmp_path: Path) -> None:
    path = tmp_path / "sound.wv"
    encode(path, "wavpack", wave(1.0, 16000), 16000)
    data = path.read_bytes()
    assert int.from_bytes(data[12:16], "little") == 16000
    path.write_bytes(patched(data, (12, (20000).to_bytes(4, "little"))))
    with pytest.raises(BadSample, match="clip: is cut off or damaged: 16,000 of 20,000 samples are there"):
        read_audio(path, "clip")


def test_asf_without_its_middle(tmp_path: Path) -> None:
    path = tmp_path / "sound.wma"
    encode(path, "wmav2", wave(8.0, 44100), 44100, container="asf", bit_rate=64_000)
    whole = read_audio(path, "clip").waveform_S
    assert len(whole) > 7.9 * 44100
    data = path.read_bytes()
    path.write_bytes(patched(data, (len(data) // 3, bytes(len(data) // 3))))
    with pytest.raises(BadSample, match=r"clip: is (cut off or )?damaged"):
        read_audio(path, "clip")


def test_mp4_with_packets_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "sound.m4a"
    encode(path, "aac", wave(3.0, 16000), 16000)
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    middle = start + (data.index(b"moov") - start) // 2
    path.write_bytes(patched(data, (middle, bytes(1500))))
    with pytest.raises(BadSample, match=r"clip: is (cut off or )?damaged"):
        read_audio(path, "clip")
