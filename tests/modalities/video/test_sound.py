"""The audio track of a video file keeps time with its picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from hrt_mm.core.errors import BadSample
from hrt_modalities.audio import AudioConfig
from hrt_modalities.audio.files import read_audio
from hrt_modalities.video.readers import read_index
from hrt_modalities.video.sound import read_sound
from tests.modalities.video.films import film

RATE = 16000


def clap(
    path: Path, at: float, seconds: float = 2.0, codec: str = "pcm_s16le", channels: int = 1, film: str = "mpeg4"
) -> Path:
    """A film with noise from one moment on."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream(film, rate=25)
        layout = "mono" if channels == 1 else "stereo"
        voice = container.add_stream(codec, rate=RATE, layout=layout)
        assert isinstance(picture, VideoStream) and isinstance(voice, AudioStream)
        picture.height, picture.width = 48, 64
        for _ in range(round(25 * seconds)):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        samples = np.zeros((1, round(RATE * seconds) * channels), np.int16)
        loud = np.random.default_rng(0).integers(-9000, 9000, samples.shape[1])
        samples[0, round(at * RATE) * channels :] = loud[round(at * RATE) * channels :]
        sound = av.AudioFrame.from_ndarray(samples, "s16", layout)
        sound.sample_rate, sound.pts, sound.time_base = RATE, 0, Fraction(1, RATE)
        container.mux(voice.encode(sound))
        container.mux(voice.encode())
    return path


def onset(waveform: np.ndarray) -> float:
    return float(np.argmax(np.abs(waveform) > 0.05)) / RATE


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "pcm_s16le"), ("a.mp4", "aac"), ("a.mkv", "flac")])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sound_is_heard_when_it_is_made(tmp_path: Path, name: str, codec: str, channels: int) -> None:
    path = clap(tmp_path / name, 0.8, codec=codec, channels=channels)
    audio = read_sound(path)
    assert audio.rate == RATE and audio.seconds == pytest.approx(2.0, abs=0.1)
    assert onset(audio.waveform_S.numpy()) == pytest.approx(0.8, abs=0.05)
    part = read_sound(path, begin=0.5, end=1.5)
    assert part.seconds == pytest.approx(1.0, abs=0.01)
    assert onset(part.waveform_S.numpy()) == pytest.approx(0.3, abs=0.05)


def test_sound_begins_with_the_first_picture_that_can_be_decoded(tmp_path: Path) -> None:
    """A film that is cut within a group of pictures shows nothing before its next key frame."""
    whole, path = clap(tmp_path / "whole.mkv", 1.5, film="mpeg2video"), tmp_path / "cut.mkv"
    with av.open(str(whole)) as read, av.open(str(path), "w") as written:
        copies = {stream.index: written.add_stream_from_template(stream) for stream in read.streams}
        for packet in read.demux():
            if packet.size and (packet.stream.type == "audio" or float((packet.pts or 0) * packet.time_base) > 0.1):
                packet.stream = copies[packet.stream.index]
                written.mux(packet)
    with av.open(str(path)) as read:
        first = next(read.decode(video=0)).time
    assert read_index(path, "cut.mkv").zero == Fraction(first).limit_denominator(1000) > 0.3
    assert onset(read_sound(path).waveform_S.numpy()) == pytest.approx(1.5 - first, abs=0.05)


def test_the_audio_modality_takes_it(tmp_path: Path) -> None:
    audio = read_sound(clap(tmp_path / "a.mkv", 0.1))
    tokens = AudioConfig(type="audio").build()([audio])
    assert tokens.spans.total == 200


def test_files_without_sound(tmp_path: Path) -> None:
    with pytest.raises(BadSample, match=r"a.mp4: has no audio track"):
        read_sound(film(tmp_path / "a.mp4", 3), "a.mp4")
    path = clap(tmp_path / "b.mkv", 0.1)
    with pytest.raises(BadSample, match="none of its audio track can be decoded there"):
        read_sound(path, begin=7.0)
    with pytest.raises(BadSample, match="has no length"):
        read_sound(path, begin=1.0, end=0.5)


def spoken(path: Path, codec: str, rate: int, jump: int = 0) -> Path:
    """A film of two seconds with a steady tone; its second half is ``jump`` samples late."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=25)
        voice = container.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(picture, VideoStream) and isinstance(voice, AudioStream)
        picture.height, picture.width = 48, 64
        for _ in range(50):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")))
        container.mux(picture.encode())
        half = rate
        for number in range(2):
            time_S = (number * half + np.arange(half)) / rate
            samples = (16000 * np.sin(2 * np.pi * 200 * time_S)).astype(np.int16)[None]
            sound = av.AudioFrame.from_ndarray(samples, "s16", "mono")
            sound.sample_rate, sound.pts, sound.time_base = rate, number * (half + jump), Fraction(1, rate)
            container.mux(voice.encode(sound))
        container.mux(voice.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.mkv", "aac", 44100),
        ("opus.mkv", "libopus", 48000),
        ("a.mp4", "aac", 44100),
        ("a.avi", "libmp3lame", 44100),
    ],
)
def test_times_that_are_rounded_leave_no_gaps(name: str, codec: str, rate: int, tmp_path: Path) -> None:
    path = spoken(tmp_path / name, codec, rate)
    film = read_sound(path).waveform_S
    track = read_audio(path, "a").waveform_S
    # The same samples, but for what is heard before the first picture.
    late = int(torch.argmax((track[:4096].unfold(0, 2048, 1) - film[:2048]).abs().sum(1).neg()))
    assert torch.equal(film, track[late:])
    part = read_sound(path, begin=0.75, end=1.25).waveform_S
    assert torch.equal(part, film[round(0.75 * rate) : round(1.25 * rate)])


def test_a_gap_is_silence_and_a_leap_is_none(tmp_path: Path) -> None:
    gap = read_sound(spoken(tmp_path / "a.mkv", "pcm_s16le", RATE, RATE // 2))
    assert gap.seconds == pytest.approx(2.5, abs=0.01)
    assert not gap.waveform_S[RATE + 800 : RATE + RATE // 2 - 800].any()
    # Thirty years: memory is taken for what is there.
    assert read_sound(spoken(tmp_path / "b.mkv", "pcm_s16le", RATE, RATE * 10**9)).seconds == pytest.approx(2, abs=0.01)
