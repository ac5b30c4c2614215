from __future__ import annotations

import math
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from pydantic import TypeAdapter, ValidationError

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_modalities.audio import AudioConfig
from hrt_modalities.audio.audio import Audio, Hidden
from hrt_modalities.audio.augment import Augmentation, chain
from tests.modalities.audio.sounds import patched

ADAPTER: TypeAdapter[Any] = TypeAdapter(Augmentation)


def transformed(audio: Audio, **values: Any) -> Audio:
    run = chain([ADAPTER.validate_python(values)])
    assert run is not None
    return run(audio)


def tone(hertz: float = 1000.0, seconds: float = 1.0, **starts: tuple[float, ...]) -> Audio:
    times = torch.arange(round(16000 * seconds), dtype=torch.float64) / 16000
    return Audio((0.5 * torch.sin(2 * torch.pi * hertz * times)).float(), 16000, starts)


def test_speed_moves_pitch_length_and_boundaries() -> None:
    audio = transformed(tone(words=(0.0, 0.5)), type="speed", factor=(1.25, 1.25))
    assert len(audio.waveform_S) == 12800
    assert audio.boundaries["words"] == (0.0, 0.4)
    spectrum = torch.fft.rfft(audio.waveform_S).abs()
    assert int(spectrum.argmax()) == round(1250 * 12800 / 16000)


def test_another_vocal_tract_moves_the_bands_alone() -> None:
    audio = tone(words=(0.0, 0.5))
    result = [transformed(audio, type="vocal_tract", factor=(0.8, 1.3)) for _ in range(200)]
    assert all(
        torch.equal(item.waveform_S, audio.waveform_S) and item.boundaries == audio.boundaries for item in result
    )
    warps = {item.warp for item in result}
    assert min(warps) >= 0.8 and max(warps) <= 1.3 and len(warps) > 30


def test_quiet_ends_go_by_a_threshold_of_their_own() -> None:
    quiet, loud = 0.01 * tone(seconds=0.3).waveform_S, tone(seconds=0.4).waveform_S
    audio = Audio(torch.cat([quiet, loud, quiet]), 16000, {"words": (0.0, 0.3)})
    whole = transformed(audio, type="trim", p=1, db=(50, 60))
    short = transformed(audio, type="trim", p=1, db=(20, 30))
    assert len(whole.waveform_S) == len(audio.waveform_S)
    assert abs(short.seconds - 0.4) <= 0.03
    # Half of the time it does nothing: both lengths come up.
    lengths = {len(transformed(audio, type="trim", p=0.5, db=(20, 30)).waveform_S) for _ in range(50)}
    assert lengths == {len(audio.waveform_S), len(short.waveform_S)}


def test_a_pace_that_changes_keeps_the_pitch_and_moves_boundaries() -> None:
    low, high = tone(500, 0.5), tone(2000, 0.5)
    audio = Audio(torch.cat([low.waveform_S, high.waveform_S]), 16000, {"words": (0.0, 0.5)})
    warped = transformed(audio, type="time_warp", p=1, factor=(2, 2), pieces=3)
    assert torch.equal(warped.waveform_S, audio.waveform_S)
    assert abs(warped.seconds_heard - 0.5) < 1e-6
    tokenizer = AudioConfig(type="audio", mels=40, carried=("words",)).build().with_boundaries({"words"})
    plain, fast = tokenizer([audio]), tokenizer([warped])
    assert len(plain.x) == 100 and len(fast.x) == 50
    # What is heard at t was said at 2 t, band for band; the second word starts where the pitch changes.
    assert torch.allclose(fast.x[5:20], plain.x[10:40:2], atol=1e-4)
    assert torch.allclose(fast.x[30:45], plain.x[60:90:2], atol=1e-4)
    assert fast.boundaries["words"].nonzero().flatten().tolist() == [0, 25]


def test_each_piece_has_a_pace_of_its_own() -> None:
    drawn = [transformed(tone(), type="time_warp", p=1, factor=(0.5, 2), pieces=2).pace for _ in range(100)]
    for pace in drawn:
        assert pace is not None and pace.source[0] == pace.heard[0] == 0 and abs(pace.source[-1] - 1) < 1e-9
        paces = [
            (second - first) / (last - start)
            for (first, second), (start, last) in zip(pairwise(pace.source), pairwise(pace.heard), strict=True)
        ]
        assert all(0.5 - 1e-6 <= item <= 2 + 1e-6 for item in paces) and paces[0] != paces[1]
        middle = pace.heard_at([pace.source[1]])
        assert middle == (pace.heard[1],) and float(pace.source_at(np.array(middle))[0]) == pace.source[1]
    assert transformed(tone(), type="time_warp", p=0).pace is None


def test_hidden_parts_move_with_the_pace() -> None:
    audio = replace(tone(), hidden=(Hidden((0.5, 0.7)),))
    warped = transformed(audio, type="time_warp", p=1, factor=(0.5, 0.5), pieces=1)
    tokenizer = AudioConfig(type="audio", mels=40).build()
    hidden = (tokenizer([warped]).x == 0).all(-1).nonzero().flatten()
    assert hidden.tolist() == list(range(100, 140))


@pytest.mark.parametrize("later", ["speed", "trim", "pad", "time_warp"])
def test_a_pace_comes_after_all_else_that_changes_times(later: str) -> None:
    with pytest.raises(ConfigError, match=f"{later} after time_warp"):
        chain([ADAPTER.validate_python({"type": "time_warp"}), ADAPTER.validate_python({"type": later})])


def test_silence_moves_boundaries() -> None:
    audio = tone(words=(0.0, 0.5))
    padded = transformed(audio, type="pad", p=1, seconds=(0.1, 0.2))
    first, second = padded.boundaries["words"]
    index = round(first * 16000)
    assert 1600 <= index <= 3200 and abs(second - first - 0.5) < 1e-9
    assert torch.equal(padded.waveform_S[index : index + 16000], audio.waveform_S)
    assert not padded.waveform_S[:index].any() and not padded.waveform_S[index + 16000 :].any()
    assert 1600 <= len(padded.waveform_S) - index - 16000 <= 3200


def test_gain() -> None:
    audio = tone()
    louder = transformed(audio, type="gain", db=(6.0206, 6.0206))
    assert torch.allclose(louder.waveform_S, 2 * audio.waveform_S, atol=1e-4)


@pytest.mark.parametrize("colour", ["white", "pink"])
@pytest.mark.parametrize("ratio", [0.0, 20.0])
def test_noise_has_the_ratio_and_the_colour(colour: str, ratio: float) -> None:
    audio = tone(seconds=2)
    noisy = transformed(audio, type="noise", p=1, snr_db=(ratio, ratio), colour=colour)
    noise = noisy.waveform_S - audio.waveform_S
    result = 10 * math.log10(float(audio.waveform_S.square().mean() / noise.square().mean()))
    assert abs(result - ratio) < 0.1
    power = torch.fft.rfft(noise).abs().square()
    low, high = power[200:400].mean(), power[6400:12800].mean()
    fall = 10 * math.log10(float(low / high))
    assert abs(fall - (15 if colour == "pink" else 0)) < 2
    silent = Audio(torch.zeros(100), 16000)
    assert not transformed(silent, type="noise", p=1, colour=colour).waveform_S.any()
    never = transformed(audio, type="noise", p=0)
    assert torch.equal(never.waveform_S, audio.waveform_S)


def test_noise_from_a_folder(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hum.wav", tone(50, 0.3).waveform_S.numpy(), 16000)
    audio = tone()
    noisy = transformed(audio, type="noise", p=1, snr_db=(10, 10), folder=tmp_path)
    spectrum = torch.fft.rfft(noisy.waveform_S - audio.waveform_S).abs()
    assert abs(int(spectrum.argmax()) - 50) <= 2
    (tmp_path / "hum.wav").unlink()
    with pytest.raises(ConfigError, match="holds no sound"):
        transformed(audio, type="noise", folder=tmp_path)
    with pytest.raises(ConfigError, match="not a folder"):
        transformed(audio, type="noise", folder=tmp_path / "none")


def test_noise_is_taken_from_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "hum.flac"
    soundfile.write(path, tone(50, 1.0).waveform_S.numpy(), 16000)
    data = path.read_bytes()
    # It says that it lasts for three days.
    path.write_bytes(patched(data, (22, b"\xff\xff\xff\xff")))
    audio = tone()
    for seed in range(4):
        torch.manual_seed(seed)
        noise = transformed(audio, type="noise", p=1, folder=tmp_path).waveform_S - audio.waveform_S
        assert abs(int(torch.fft.rfft(noise).abs().argmax()) - 50) <= 2


def test_hidden_and_broken_files_are_no_noise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "hum.wav", tone(50, 0.3).waveform_S.numpy(), 16000)
    (tmp_path / "._hum.wav").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "x.wav").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "up").symlink_to(".")
    (tmp_path / "aaa.wav").write_bytes(b"no sound")
    audio = tone()
    for seed in range(8):
        torch.manual_seed(seed)
        noisy = transformed(audio, type="noise", p=1, snr_db=(10, 10), folder=tmp_path)
        assert not torch.equal(noisy.waveform_S, audio.waveform_S)
    assert "pipe.wav (a FIFO)" in caplog.text and "up (a link" in caplog.text
    assert caplog.text.count("left out as noise") == 1 and "aaa.wav" in caplog.text
    assert "._hum" not in caplog.text and ".cache" not in caplog.text
    (tmp_path / "hum.wav").unlink()
    with pytest.raises(BadSample, match=r"no file of its folder can be read; the last is .*aaa.wav"):
        transformed(audio, type="noise", p=1, folder=tmp_path)


def test_another_microphone_changes_the_spectrum_smoothly() -> None:
    wave = torch.randn(32000)
    audio = transformed(Audio(wave, 16000), type="equalize", p=1, db=6, points=4)
    assert audio.waveform_S.shape == wave.shape and not torch.allclose(audio.waveform_S, wave, atol=0.1)
    ratio = (torch.fft.rfft(audio.waveform_S).abs() / torch.fft.rfft(wave).abs()).log()
    smooth = ratio[200:15800].unfold(0, 200, 200).median(1).values
    assert float(smooth.diff().abs().max()) < 0.5 and float(smooth.std()) > 0.1
    assert torch.equal(transformed(audio, type="equalize", p=0).waveform_S, audio.waveform_S)
    for samples in (1, 2):
        assert transformed(Audio(torch.ones(samples), 16000), type="equalize", p=1).waveform_S.isfinite().all()


def test_a_room_answers_later_and_dies_away() -> None:
    wave = torch.zeros(16000)
    wave[100] = 1.0
    audio = transformed(Audio(wave, 16000), type="reverb", p=1, seconds=(0.2, 0.2), direct_db=(6, 6))
    tail = audio.waveform_S[101:]
    assert not audio.waveform_S[:100].any() or float(audio.waveform_S[:100].abs().max()) < 1e-5
    assert abs(float(audio.waveform_S[100]) - 1) < 1e-4
    assert abs(-10 * math.log10(float(tail.square().sum())) - 6) < 0.1
    fall = 10 * math.log10(float(tail[:320].square().mean() / tail[1600:1920].square().mean()))
    assert abs(fall - 30) < 4
    for samples in (1, 2):
        assert transformed(Audio(torch.ones(samples), 16000), type="reverb", p=1).waveform_S.isfinite().all()


def test_spec_augment_hides_within_its_limits() -> None:
    for _ in range(50):
        audio = transformed(tone(), type="spec_augment", times=3, max_seconds=0.3, max_share=0.2, bands=2, max_band=0.5)
        assert len(audio.hidden) == 5
        for part in audio.hidden[:3]:
            assert 0 <= part.seconds[0] <= part.seconds[1] <= 1 and part.seconds[1] - part.seconds[0] <= 0.2
            assert part.bands == (0, 1)
        for part in audio.hidden[3:]:
            assert 0 <= part.bands[0] <= part.bands[1] <= 1 and part.bands[1] - part.bands[0] <= 0.5


def test_draws_come_from_the_seed() -> None:
    kinds: list[dict[str, Any]] = [
        {"type": "speed"},
        {"type": "vocal_tract"},
        {"type": "gain"},
        {"type": "pad", "p": 1},
        {"type": "equalize", "p": 1},
        {"type": "reverb", "p": 1},
        {"type": "noise", "p": 1},
        {"type": "spec_augment"},
    ]
    run = chain([ADAPTER.validate_python(kind) for kind in kinds])
    assert run is not None
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(run(tone(words=(0.0,))))
    assert torch.equal(results[0].waveform_S, results[1].waveform_S) and results[0].hidden == results[1].hidden
    assert results[0].hidden != results[2].hidden


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "reverb", "seconds": (1.1, 0.9)}, "swap them"),
        ({"type": "speed", "factor": (1.1, 0.9)}, "swap them"),
        ({"type": "speed", "factor": (0.0, 1.0)}, "0.25"),
        ({"type": "vocal_tract", "factor": (1.1, 0.9)}, "swap them"),
        ({"type": "vocal_tract", "factor": (0.9, 3.0)}, "less than or equal to 2"),
        ({"type": "noise", "p": 2}, "less than or equal to 1"),
        ({"type": "noise", "folder": "x", "colour": "white"}, "colour has no effect"),
        ({"type": "spec_augment", "times": 0, "bands": 0}, "changes nothing"),
    ],
)
def test_impossible_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(values)
