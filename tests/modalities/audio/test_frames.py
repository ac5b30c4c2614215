from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from hrt_mm.core.errors import BadSample
from hrt_modalities.audio.audio import Audio
from hrt_modalities.audio.files import blocks, read_audio
from hrt_modalities.audio.frames import Framing, LogMel, RunningMean
from hrt_modalities.audio.tokenizer import AudioConfig, AudioTokenizer

KINDS: dict[str, dict[str, Any]] = {
    "log_mel": {},
    "stacked": {"stem": {"frames": 4}},
    "running": {"norm": {"running_s": 0.5}, "stem": {"frames": 2}},
    "odd": {"rate": 22050, "hop_ms": 7.3, "window_ms": 30, "mels": 40},
    "waveform": {"features": "waveform", "stem": {"frames": 3}},
}


def tokenizer(**values: Any) -> AudioTokenizer:
    return AudioConfig.model_validate({"type": "audio"} | values).build()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 37, 160, 592, 16000])
def test_chunks_give_the_whole(kind: str, chunk: int) -> None:
    front_end = tokenizer(**KINDS[kind])
    wave = 0.1 * torch.randn(700 if chunk == 1 else 12345)
    stream = front_end.stream()
    parts = [stream.feed(piece) for piece in wave.split(chunk)]
    together = torch.cat([*parts, stream.flush()])
    whole = front_end.encode(Audio(wave, front_end.config.rate))
    assert together.shape == whole.shape
    assert torch.allclose(together, whole, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [1, 2, 79, 160, 161, 640, 641])
def test_any_length_gives_whole_tokens(kind: str, samples: int) -> None:
    front_end = tokenizer(**KINDS[kind])
    whole = front_end.encode(Audio(torch.randn(samples), front_end.config.rate))
    assert (
        len(whole)
        == front_end.size((samples, front_end.config.rate))
        == -(-samples // round(front_end.seconds_per_token * front_end.config.rate))
    )
    assert whole.isfinite().all()
    stream = front_end.stream()
    together = torch.cat([stream.feed(torch.empty(0)), stream.flush()])
    assert together.shape == (0, front_end.features)


@pytest.mark.parametrize("kind", ["log_mel", "stacked", "running", "waveform"])
def test_a_token_sees_its_own_time_and_the_known_look_ahead(kind: str) -> None:
    front_end = tokenizer(**KINDS[kind])
    wave = torch.randn(8000)
    before = front_end.encode(Audio(wave, 16000))
    changed = wave.clone()
    changed[4000:] = 0
    after = front_end.encode(Audio(changed, 16000))
    same = (before == after).all(1)
    first = int((~same).nonzero()[0])
    end = (first + 1) * front_end.seconds_per_token + front_end.lookahead_seconds
    assert end > 4000 / 16000 >= first * front_end.seconds_per_token + front_end.lookahead_seconds
    assert same[:first].all()


def test_white_noise_has_its_variance_in_every_band() -> None:
    for rate, hop, window, mels in [(16000, 160, 400, 80), (8000, 80, 200, 80), (44100, 441, 1102, 23)]:
        noise = 0.1 * torch.randn(rate * 4)
        framer = LogMel(Framing(rate, hop, window), mels, 20.0, rate / 2, 0.0, 1.0)
        power_F = framer(framer.framing.windows(noise, rate * 4 // hop)).exp().mean(0)
        assert torch.allclose(power_F, torch.full((mels,), 0.01), rtol=0.15), (rate, power_F)


def test_a_tone_is_in_its_own_band() -> None:
    for hertz in (200.0, 1000.0, 5000.0):
        wave = torch.sin(2 * torch.pi * hertz * torch.arange(16000) / 16000)
        peaks = tokenizer().encode(Audio(wave, 16000)).argmax(1)[5:-5]
        assert peaks.unique().numel() == 1
        # Bands are 2595 log10-like: linear to 1 kHz. The centre of the band lies within two bands of the tone.
        step = (200 / 3) * (15 + 27 * torch.log(torch.tensor(8.0)).item() / 1.8563 - 0.3) / 81
        if hertz <= 1000:
            assert abs(float(peaks[0] + 1) * step + 20 - hertz) < 2 * step


def test_the_running_mean_is_the_sum_that_it_says() -> None:
    x_TF = torch.randn(300, 3)
    running = RunningMean(20.0)
    result, last_F = running(x_TF)
    mean_F = torch.zeros(3)
    for index, frame_F in enumerate(x_TF):
        mean_F = running.decay * mean_F + (1 - running.decay) * frame_F
        assert torch.allclose(result[index], frame_F - mean_F, atol=1e-5)
    assert torch.allclose(last_F.float(), mean_F, atol=1e-5)


def test_silence_and_clipping_are_finite() -> None:
    for wave in (torch.zeros(1600), torch.full((1600,), 1.0), torch.randn(1600).sign()):
        for kind in KINDS.values():
            front_end = tokenizer(**kind)
            assert front_end.encode(Audio(wave, 16000)).isfinite().all()


@pytest.mark.parametrize("kind", ["log_mel", "stacked", "running"])
@pytest.mark.parametrize("milliseconds", [10, 37, 160, 1000])
def test_a_file_in_chunks_gives_the_whole(kind: str, milliseconds: int, tmp_path: Path) -> None:
    front_end = tokenizer(**KINDS[kind])
    wave = 0.1 * torch.randn(44100 * 2 + 17)
    soundfile.write(tmp_path / "a.flac", wave.numpy(), 44100, subtype="PCM_24")
    whole = front_end([read_audio(tmp_path / "a.flac", "a")]).x
    stream = front_end.stream(rate=44100)
    parts = [stream.feed(block.waveform_S) for block in blocks(tmp_path / "a.flac", "a", milliseconds / 1000)]
    together = torch.cat([*parts, stream.flush()])
    assert together.shape == whole.shape and torch.allclose(together, whole, atol=1e-4)


def test_tokens_come_as_soon_as_they_are_known() -> None:
    front_end = tokenizer(**KINDS["stacked"])
    stream = front_end.stream()
    latest = 0.0
    count = 0
    for step in range(100):
        count += len(stream.feed(torch.randn(160)))
        latest = max(latest, (step + 1) * 0.01 - count * front_end.seconds_per_token)
    assert latest < front_end.seconds_per_token + front_end.lookahead_seconds + 0.01


def test_a_stream_refuses_what_is_no_sound() -> None:
    stream = tokenizer().stream()
    with pytest.raises(BadSample, match="nan at sample 3"):
        stream.feed(torch.tensor([0.0, 0.0, 0.0, float("nan")]))
