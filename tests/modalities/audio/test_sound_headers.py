"""Whatever a header says of a file's length, the sound is read to its end, or refused by name."""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hrt_mm.core.errors import BadSample
from hrt_modalities.audio import tracks
from hrt_modalities.audio.files import blocks, read_audio, read_header
from tests.modalities.audio.sounds import after, decoded, encode, flac, patched, regranuled, wave

SECONDS = 0.53
EXPERIMENTAL = {"strict": "-2"}
ENCODED = {
    # name: codec, rate, channels, options
    "a.mp3": ("libmp3lame", 44100, 2, {}),
    "low.mp3": ("libmp3lame", 16000, 1, {}),
    "plain.mp3": ("libmp3lame", 44100, 1, {"options": {"write_xing": "0"}}),
    "a.mp2": ("mp2", 44100, 2, {}),
    "a.m4a": ("aac", 44100, 2, {}),
    "fragments.m4a": ("aac", 44100, 2, {"container": "mp4", "options": {"movflags": "frag_keyframe+empty_moov"}}),
    "lossless.m4a": ("alac", 44100, 2, {}),
    "a.3gp": ("aac", 16000, 1, {}),
    "amr.3gp": ("libopencore_amrnb", 8000, 1, {"bit_rate": 12200}),
    "a.aac": ("aac", 44100, 1, {"container": "adts"}),
    "a.mka": ("aac", 48000, 2, {"container": "matroska"}),
    "vorbis.mka": ("vorbis", 44100, 2, {"codec_options": EXPERIMENTAL, "container": "matroska"}),
    "a.webm": ("libopus", 48000, 1, {}),
    "a.opus": ("libopus", 48000, 2, {"container": "ogg"}),
    "low.opus": ("libopus", 16000, 1, {"container": "ogg", "bit_rate": 8000}),
    "a.ogg": ("vorbis", 44100, 2, {"codec_options": EXPERIMENTAL}),
    "flac.ogg": ("flac", 44100, 2, {}),
    "a.wma": ("wmav2", 44100, 2, {"container": "asf", "bit_rate": 128_000}),
    "a.amr": ("libopencore_amrnb", 8000, 1, {"bit_rate": 12200}),
    "a.ac3": ("ac3", 48000, 2, {}),
    "six.eac3": ("eac3", 48000, 6, {}),
    "a.flac": ("flac", 44100, 2, {}),
    "a.wv": ("wavpack", 44100, 2, {}),
    "a.tta": ("tta", 44100, 2, {}),
    "a.caf": ("pcm_s16be", 44100, 2, {}),
    "a.aiff": ("pcm_s16be", 44100, 2, {}),
    "ima.aifc": ("adpcm_ima_qt", 22050, 1, {"container": "aiff"}),
    "a.au": ("pcm_s16be", 44100, 1, {}),
    "a.w64": ("pcm_s16le", 44100, 1, {}),
    "a.wav": ("pcm_s16le", 16000, 2, {}),
    "law.wav": ("pcm_mulaw", 8000, 1, {}),
    "bytes.wav": ("pcm_u8", 8000, 1, {}),
    "wide.wav": ("pcm_s64le", 16000, 2, {}),
    "ms.wav": ("adpcm_ms", 44100, 2, {}),
    "ima.wav": ("adpcm_ima_wav", 22050, 1, {}),
    "mp3.wav": ("libmp3lame", 44100, 1, {}),
    "a.ts": ("aac", 48000, 2, {"container": "mpegts"}),
    "a.flv": ("aac", 44100, 2, {}),
    "a.avi": ("libmp3lame", 44100, 2, {}),
    "a.mov": ("adpcm_ima_qt", 22050, 1, {}),
}  # fmt: skip
WRITTEN = {
    # name: format, subtype, rate
    "gsm.wav": ("WAV", "GSM610", 8000),
    "gsm.aiff": ("AIFF", "GSM610", 8000),
    "float.aiff": ("AIFF", "FLOAT", 44100),
    "wide.flac": ("FLAC", "PCM_24", 44100),
    "wide.caf": ("CAF", "PCM_24", 44100),
    "sphere.sph": ("NIST", "PCM_16", 16000),
    "large.rf64": ("RF64", "PCM_16", 16000),
    "g721.au": ("AU", "G721_32", 8000),
    "vorbis.ogg": ("OGG", "VORBIS", 16000),
    "opus.ogg": ("OGG", "OPUS", 16000),
    "variable.mp3": ("MP3", "MPEG_LAYER_III", 16000),
    "a.voc": ("VOC", "PCM_16", 16000),
}
LONE = {"a.mat": ("MAT5", "PCM_16", 16000), "nms.wav": ("WAV", "NMS_ADPCM_16", 8000)}
"""What FFmpeg does not read, or takes for something else."""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("sounds")
    for name, (codec, rate, channels, options) in ENCODED.items():
        encode(folder / name, codec, wave(SECONDS, rate, channels), rate, **options)  # type: ignore[arg-type]
    for name, (form, subtype, rate) in (WRITTEN | LONE).items():
        soundfile.write(folder / name, wave(SECONDS, rate)[0], rate, format=form, subtype=subtype)
    return folder


def check(path: Path, expected: int | None = None) -> None:
    """The sound is read whole, in parts and in blocks, and its length is known well before it is decoded."""
    count, rate = (expected, None) if expected is not None else decoded(path)
    audio = read_audio(path, "a")
    assert len(audio.waveform_S) == count and rate in (None, audio.rate)
    assert abs(read_header(path, "a").samples - count) <= 2048
    together = torch.cat([block.waveform_S for block in blocks(path, "a", 0.21)])
    assert torch.equal(together, audio.waveform_S)
    first = len(audio.waveform_S) // 3
    part = read_audio(path, "a", first / audio.rate, 0.1).waveform_S
    assert torch.equal(part, audio.waveform_S[first : first + round(0.1 * audio.rate)])


@pytest.mark.parametrize("name", [*ENCODED, *WRITTEN])
def test_all_that_ffmpeg_decodes_is_read(name: str, made: Path) -> None:
    check(made / name)
    if name in ENCODED:
        codec, rate, channels, _ = ENCODED[name]
        assert read_header(made / name, name).channels == channels
        if codec in ("flac", "alac", "pcm_s16le", "pcm_s16be", "pcm_s64le", "wavpack", "tta"):
            expected = wave(SECONDS, rate, channels).mean(0)
            # FFmpeg writes 8 bits where it is asked for nothing else.
            error = 1e-2 if codec in ("wavpack", "tta") else 1e-4
            assert np.allclose(read_audio(made / name, name).waveform_S.numpy()[: len(expected)], expected, atol=error)


@pytest.mark.parametrize("name", LONE)
def test_libsndfile_reads_what_ffmpeg_does_not(name: str, made: Path) -> None:
    count = soundfile.info(made / name).frames
    check(made / name, count)


def test_a_wav_whose_bytes_are_the_other_way_round(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", wave(SECONDS, 16000)[0], 16000, endian="BIG")
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RIFX"
    check(tmp_path / "a.wav", round(SECONDS * 16000))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="FFmpeg's program is not here")
@pytest.mark.parametrize(
    "name", ["a.mp3", "plain.mp3", "a.m4a", "a.ogg", "a.opus", "a.amr", "a.wma", "ms.wav", "gsm.wav"]
)
def test_the_program_ffmpeg_agrees(name: str, made: Path) -> None:
    command = ["ffmpeg", "-v", "error", "-i", str(made / name), "-f", "f32le", "-ac", "1", "-"]
    out = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    assert len(out) // 4 == len(read_audio(made / name, name).waveform_S)


WAV_SIZES = {
    "nothing": (0, 0),
    "no sound": (None, 0),
    "a stream's": (0xFFFFFFFF, 0xFFFFFFFF),
    "a stream's of 2 GB": (0x7FFFF024, 0x7FFFF000),
    "4 GB": (None, 0xFFFFFFF0),
    "twice as much": (None, "double"),
}


@pytest.mark.parametrize("size", WAV_SIZES)
@pytest.mark.parametrize("name", ["a.wav", "law.wav", "ms.wav", "mp3.wav", "gsm.wav"])
def test_wav_of_any_size(name: str, size: str, made: Path, tmp_path: Path) -> None:
    data = (made / name).read_bytes()
    index = after(data, b"data")
    whole, sound = WAV_SIZES[size]
    value = 2 * struct.unpack_from("<I", data, index)[0] if sound == "double" else sound
    changes = [(index, struct.pack("<I", value))]
    if whole is not None:
        changes.append((4, struct.pack("<I", whole)))
    path = tmp_path / name
    path.write_bytes(patched(data, *changes))
    check(path)


def mp3_head(data: bytes) -> int:
    """The place of the number of frames in a Xing header."""
    return after(data, b"Info" if b"Info" in data else b"Xing", 4)


XING = {
    "endless": (0xFFFFFFFF, None),
    "all endless": (0xFFFFFFFF, 0xFFFFFFFF),
    "none": (0, 0),
    "bytes": (None, 1 << 31),
}


def vbri(data: bytes, frames: int, length: int) -> bytes:
    """An mp3 without a header, of 64 kbit/s at 44.1 kHz, with one of Fraunhofer's encoder."""
    header = b"VBRI" + struct.pack(">HHHIIHHHH", 1, 0, 50, length, frames, 0, 1, 1, 1)
    return patched(data[:4] + bytes(204), (36, header)) + data


def defects(folder: Path) -> dict[str, bytes]:
    """Files of which no byte of sound is missing, by name."""
    result: dict[str, bytes] = {}
    for name in ("a.mp3", "low.mp3", "variable.mp3"):
        data = (folder / name).read_bytes()
        index = mp3_head(data)
        for defect, (frames, length) in XING.items():
            numbers = [(index, frames), (index + 4, length)]
            result[f"xing {defect} {name}"] = patched(
                data, *((at, struct.pack(">I", number)) for at, number in numbers if number is not None)
            )
        result[f"junk {name}"] = bytes(500) + data + b"trailing" * 300
        result[f"tag {name}"] = data + b"TAG" + bytes(125)
        result[f"id3 {name}"] = b"ID3\x04\0\0\0\0\x0f\x76" + bytes(15 * 128 + 0x76) + data
        result[f"twice {name}"] = data * 2
    data = (folder / "plain.mp3").read_bytes()
    data = data[data.index(b"\xff\xfb") :]
    for frames, length in ((0, 0), (1 << 31, 1 << 31), (1 << 31, len(data)), (100, 100 * len(data))):
        result[f"vbri {frames} {length} .mp3"] = vbri(data, frames, length)
    for name in ("plain.mp3", "a.aac", "a.ac3", "a.mp2"):
        data = (folder / name).read_bytes()
        result[f"from the middle {name}"] = data[1000:]
        result[f"tag {name}"] = data + b"TAG" + bytes(125)
    for name in ("a.flac", "wide.flac"):
        data = (folder / name).read_bytes()
        packed = int.from_bytes(data[18:26], "big")
        real = packed & (1 << 36) - 1
        for total in (0, 1, real // 2, real - 1, real + 1, 2 * real, 1 << 35, (1 << 36) - 1):
            new = packed >> 36 << 36 | total
            result[f"total {total} {name}"] = patched(data, (18, new.to_bytes(8, "big")))
            result[f"total {total} without a checksum {name}"] = patched(data, (18, new.to_bytes(8, "big") + bytes(16)))
        result[f"no sizes of frames {name}"] = patched(data, (12, bytes(6)))
    for name in ("a.ogg", "vorbis.ogg", "flac.ogg", "a.opus", "opus.ogg"):
        data = (folder / name).read_bytes()
        changes: dict[str, Callable[[int, int, int], int]] = {
            "last 2^40": lambda old, page, count: 1 << 40 if page == count - 1 else old,
            "all 2^40": lambda old, page, count: old + (1 << 40) if old > 0 else old,
            "later": lambda old, page, count: old + 100_000 if old > 0 else old,
        }
        if "opus" not in name:
            changes["last -5"] = lambda old, page, count: -5 if page == count - 1 else old
            changes["last 0"] = lambda old, page, count: 0 if page == count - 1 else old
            changes["a -1"] = lambda old, page, count: -1 if page == 2 and page < count - 1 else old
        for defect, change in changes.items():
            result[f"granule {defect} {name}"] = regranuled(data, change)
        result[f"twice {name}"] = data * 2
        result[f"junk {name}"] = data + b"junk" * 100
    for name in ("a.aiff", "float.aiff", "ima.aifc", "gsm.aiff"):
        data = (folder / name).read_bytes()
        sound, frames = after(data, b"SSND"), after(data, b"COMM", 6)
        end = b"\xff" * 4
        result[f"endless {name}"] = patched(data, (sound, end))
        result[f"all endless {name}"] = patched(data, (sound, end), (4, end))
        result[f"no frames {name}"] = patched(data, (frames, bytes(4)))
    for name in ("a.caf", "wide.caf"):
        data = (folder / name).read_bytes()
        for length in (-1, 1 << 50):
            result[f"size {length} {name}"] = patched(data, (after(data, b"data"), struct.pack(">q", length)))
    data = (folder / "a.caf").read_bytes()
    # What a packet is said to hold.
    result["frames in a packet a.caf"] = patched(data, (after(data, b"lpcm", 8), struct.pack(">I", 60_000)))
    data = (folder / "a.au").read_bytes()
    for length in (0xFFFFFFFF, 20_000):
        result[f"size {length} a.au"] = patched(data, (8, struct.pack(">I", length)))
    for name in ("a.mka", "vorbis.mka", "a.webm"):
        data = (folder / name).read_bytes()
        for seconds in (0.0, 1e9):
            result[f"duration {seconds} {name}"] = patched(
                data, (after(data, b"\x44\x89", 1), struct.pack(">d", 1e3 * seconds))
            )
        segment = after(data, b"\x18\x53\x80\x67")
        result[f"size unknown {name}"] = patched(data, (segment, b"\x01" + b"\xff" * 7))
        result[f"size 1 GB {name}"] = patched(data, (segment, b"\x01" + (1 << 30).to_bytes(7, "big")))
    for name in ("a.m4a", "lossless.m4a", "a.3gp"):
        data = (folder / name).read_bytes()
        for box, skip in ((b"mvhd", 16), (b"mdhd", 16), (b"tkhd", 20)):
            for length in (0, 1 << 30, 0xFFFFFFFF):
                result[f"{box.decode()} {length} {name}"] = patched(
                    data, (after(data, box, skip), struct.pack(">I", length))
                )
    return result


def test_headers_with_false_lengths(made: Path, tmp_path: Path) -> None:
    wrong = []
    for name, data in defects(made).items():
        path = tmp_path / f"a{Path(name).suffix}"
        path.write_bytes(data)
        try:
            check(path)
        except (AssertionError, BadSample) as error:
            wrong.append(f"{name}: {str(error)[:200]}")
    assert not wrong, "\n".join(wrong)


Change = Callable[[bytes], bytes]
HOPELESS: dict[str, tuple[str, Change]] = {
    "opus granule -5": ("a.opus", lambda data: regranuled(data, lambda old, page, n: -5 if page == n - 1 else old)),
    "first opus granule": ("opus.ogg", lambda data: regranuled(data, lambda old, page, n: -5 if page == 2 else old)),
    "no channels": ("a.wav", lambda data: patched(data, (22, bytes(2)))),
    "no rate": ("a.wav", lambda data: patched(data, (24, bytes(4)))),
    "huge rate": ("a.wav", lambda data: patched(data, (24, b"\xff\xff\xff\x7f"))),
    "endless frames": ("gsm.aiff", lambda data: patched(data, (after(data, b"COMM", 6), b"\xff" * 4))),
    "a large box": ("a.m4a", lambda data: patched(data, (data.index(b"mdat") - 4, b"\x7f\xff\xff\xff"))),
}


@pytest.mark.parametrize("defect", HOPELESS)
def test_what_cannot_be_read_is_a_bad_sample(defect: str, made: Path, tmp_path: Path) -> None:
    name, change = HOPELESS[defect]
    path = tmp_path / name
    path.write_bytes(change((made / name).read_bytes()))
    with pytest.raises(BadSample, match="the name: "):
        read_audio(path, "the name")


def test_sizes_that_ffmpeg_refuses(made: Path, tmp_path: Path) -> None:
    changes: dict[str, Change] = {
        "a.au": lambda data: patched(data, (8, bytes(4))),
        "large.rf64": lambda data: patched(data, (after(data, b"ds64", 12), bytes(8))),
        "a.aiff": lambda data: patched(data, (after(data, b"SSND"), bytes(4))),
        "a.w64": lambda data: patched(
            data, (after(data, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"), bytes(8))
        ),
    }
    for name, change in changes.items():
        path = tmp_path / name
        path.write_bytes(change((made / name).read_bytes()))
        whole = read_audio(made / name, "a").waveform_S
        assert torch.equal(read_audio(path, "a").waveform_S, whole), name
        assert read_header(path, "a").samples == len(whole)


CUT = [
    "a.wav", "ms.wav", "gsm.wav", "mp3.wav", "a.flac", "wide.flac", "a.mp3", "variable.mp3", "a.aiff", "a.caf", "a.au",
    "a.w64", "large.rf64", "sphere.sph", "a.m4a", "fragments.m4a", "a.3gp", "a.mka", "a.webm", "a.ogg", "a.opus",
    "flac.ogg", "a.amr", "a.wma", "a.wv", "a.tta", "nms.wav",
]  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_files_that_are_cut_off(name: str, made: Path, tmp_path: Path) -> None:
    data = (made / name).read_bytes()
    for share in (0.5, 0.9):
        path = tmp_path / name
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(BadSample, match=r"cut off|can be decoded|damaged"):
            read_audio(path, "a")


def test_an_mp3_that_is_shorter_than_it_says(made: Path, tmp_path: Path) -> None:
    data = (made / "plain.mp3").read_bytes()
    data = data[data.index(b"\xff\xfb") :]
    path = tmp_path / "a.mp3"
    path.write_bytes(vbri(data, 200, 200 * 209))
    with pytest.raises(BadSample, match="is cut off"):
        read_audio(path, "a")


def test_a_flac_that_is_cut_between_frames(tmp_path: Path) -> None:
    whole_CS = (8000 * wave(0.4, 16000)).astype(np.int16)
    digest = hashlib.md5(whole_CS.astype("<i2").tobytes()).digest()
    parts = [(whole_CS[:, first : first + 1600], 16000, 16) for first in range(0, 6400, 1600)]
    path = tmp_path / "a.flac"
    path.write_bytes(flac(*parts[:3], total=6400, md5=digest))
    with pytest.raises(BadSample, match=r"is cut off or damaged: 4,800 of 6,400 samples are there"):
        read_audio(path, "a")
    path.write_bytes(flac(*parts, total=9999, md5=digest))
    assert len(read_audio(path, "a").waveform_S) == 6400
    path.write_bytes(flac(*parts[:3], total=1 << 35))
    assert len(read_audio(path, "a").waveform_S) == 4800


def test_a_flac_that_is_damaged_in_its_midst(made: Path, tmp_path: Path) -> None:
    data = (made / "a.flac").read_bytes()
    path = tmp_path / "a.flac"
    path.write_bytes(patched(data, (len(data) // 2, bytes(40))))
    with pytest.raises(BadSample, match="damaged"):
        read_audio(path, "a")


@pytest.mark.parametrize("bits", [8, 12, 16, 20, 24])
def test_flac_of_any_depth(bits: int, tmp_path: Path) -> None:
    value_CS = (wave(0.1, 8000, 2) * 2 ** (bits - 1)).astype(np.int64)
    path = tmp_path / "a.flac"
    path.write_bytes(flac((value_CS, 8000, bits)))
    expected = (value_CS / 2 ** (bits - 1)).mean(0)
    assert np.allclose(read_audio(path, "a").waveform_S.numpy(), expected, atol=1e-6)


def test_flac_whose_channels_and_rate_change(tmp_path: Path) -> None:
    def block(rate: int, channels: int) -> tuple[np.ndarray, int, int]:
        return (wave(0.1, rate, channels) * 30000).astype(np.int64), rate, 16

    path = tmp_path / "a.flac"
    path.write_bytes(flac(block(16000, 1), block(16000, 2), block(16000, 6)))
    audio = read_audio(path, "a")
    expected = np.concatenate([(block(16000, channels)[0] / 2**15).mean(0) for channels in (1, 2, 6)])
    assert np.allclose(audio.waveform_S.numpy(), expected, atol=1e-6)
    path.write_bytes(flac(block(16000, 1), block(8000, 1), block(16000, 1)))
    audio = read_audio(path, "a")
    assert audio.rate == 16000 and len(audio.waveform_S) == 4800


@pytest.mark.parametrize("quiet_first", [False, True])
def test_variable_bit_rate_without_a_count(quiet_first: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    loud, quiet = rng.normal(0, 0.2, 44100).astype(np.float32), np.zeros(4 * 44100, np.float32)
    sound = np.concatenate([quiet, loud] if quiet_first else [loud, quiet])
    options = {"options": {"write_xing": "0"}, "codec_options": {"q": "2", "compression_level": "9"}}
    path = encode(tmp_path / "a.mp3", "libmp3lame", sound[None], 44100, **options)  # type: ignore[arg-type]
    assert read_audio(path, "a").seconds == pytest.approx(5, abs=0.1)
    assert read_header(path, "a").samples == len(read_audio(path, "a").waveform_S)


LONG = {
    "a.mp3": ("libmp3lame", 16000, {"bit_rate": 32000}),
    "low.mp3": ("libmp3lame", 16000, {"bit_rate": 8000}),
    "plain.mp3": ("libmp3lame", 16000, {"options": {"write_xing": "0"}}),
    "a.ogg": ("vorbis", 44100, {"codec_options": EXPERIMENTAL}),
    "a.opus": ("libopus", 48000, {"container": "ogg"}),
    "a.flac": ("flac", 16000, {}),
    "a.aiff": ("pcm_s16be", 16000, {}),
    "a.m4a": ("aac", 16000, {}),
    "a.mka": ("libmp3lame", 16000, {}),
}


@pytest.mark.parametrize("name", LONG)
def test_parts_behind_a_seek_are_exact(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, rate, options = LONG[name]
    two = np.concatenate([wave(4.0, rate), wave(5.0, rate) * 0.5], 1)
    if codec == "vorbis":
        two = np.concatenate([two, two])
    path = encode(tmp_path / name, codec, two, rate, **options)  # type: ignore[arg-type]
    whole = read_audio(path, "a")
    began: list[tracks.Track] = []
    pieces = tracks.Track._pieces
    monkeypatch.setattr(tracks, "SEEK_FROM_S", 1.0)
    monkeypatch.setattr(tracks.Track, "_pieces", lambda track: began.append(track) or pieces(track))  # type: ignore[func-returns-value]
    for offset in (4.5001, 6.66, 8.5):
        part = read_audio(path, "a", offset, 0.3).waveform_S
        first = round(offset * whole.rate)
        assert torch.equal(part, whole.waveform_S[first : first + round(0.3 * whole.rate)])
    # Where the container's times are rounded, or the decoder depends on all before, it starts at the beginning.
    assert len(began) == (3 if name in ("a.m4a", "a.mka") else 0)
    with pytest.raises(BadSample, match="past the end"):
        read_audio(path, "a", 8.5, 1.0)


def test_no_more_is_read_of_a_long_sound(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 16000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(60 * 16000, np.int16))
    read_audio(made / "a.flac", "a")
    tracemalloc.start()
    try:
        with pytest.raises(BadSample, match=r"a: is longer than modality.max_seconds 2"):
            read_audio(path, "a", longest=2.0)
        with pytest.raises(BadSample, match=r"a: lasts 3.0 s, longer than modality.max_seconds 2"):
            read_audio(path, "a", 5.0, 3.0, longest=2.0)
        assert len(read_audio(path, "a", 1.0, 2.0, longest=2.0).waveform_S) == 32000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # An hour is 230 MB as float32; two seconds are 128 kB.
    assert peak < 1_000_000, peak


@pytest.mark.parametrize("claimed", [1 << 35, (1 << 36) - 1])
def test_memory_is_taken_for_what_is_there(claimed: int, made: Path, tmp_path: Path) -> None:
    data = (made / "a.flac").read_bytes()
    packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | claimed
    path = tmp_path / "a.flac"
    path.write_bytes(patched(data, (18, packed.to_bytes(8, "big"))))
    read_audio(made / "a.flac", "a")
    tracemalloc.start()
    try:
        assert read_audio(path, "a").seconds == pytest.approx(SECONDS, abs=1e-3)
        assert read_header(path, "a").samples == round(SECONDS * 44100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000, peak


def test_names_that_are_orders_or_no_text(made: Path, tmp_path: Path) -> None:
    for name in ("concat:a|b.flac", "file:x.flac", "-i.flac", "%d.flac", "\udcff.flac"):
        path = tmp_path / name
        path.write_bytes((made / "a.flac").read_bytes())
        assert read_audio(path, "a").seconds == pytest.approx(SECONDS, abs=1e-3)
    playlist = tmp_path / "list.wav"
    playlist.write_text(f"ffconcat version 1.0\nfile {made / 'a.flac'}\n")
    with pytest.raises(BadSample, match="is not a sound file that can be read"):
        read_audio(playlist, "a")


FUZZED = ["a.wav", "ms.wav", "a.mp3", "a.flac", "a.ogg", "a.opus", "a.m4a", "a.mka", "a.wma", "a.aiff", "a.caf", "a.au"]


@settings(max_examples=100)
@given(
    name=st.sampled_from(FUZZED),
    positions=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    share=st.sampled_from([1.0, 1.0, 0.7, 0.01]),
)
def test_any_header_is_read_or_refused(name: str, positions: list[tuple[int, bytes]], share: float, made: Path) -> None:
    data = patched((made / name).read_bytes(), *positions)
    path = made / f"fuzzed{Path(name).suffix}"
    path.write_bytes(data[: max(1, int(share * len(data)))])
    errors: list[BadSample] = []
    for read in (lambda: read_audio(path, "the name"), lambda: read_header(path, "the name")):
        try:
            read()
        except BadSample as error:
            errors.append(error)
    assert all(error.name == "the name" and len(error.reason) < 400 for error in errors)
