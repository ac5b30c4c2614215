from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from hrt_mm.core.errors import BadSample, ConfigError, UserError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens
from hrt_mm.tasks.encoder import Encoder
from hrt_modalities.audio.audio import Audio, Hidden
from hrt_modalities.audio.stems import AudioConvStem, BandMap, StemConfig
from hrt_modalities.audio.tokenizer import AudioConfig, AudioTokenizer


def tokenizer(*expected: str, **values: object) -> AudioTokenizer:
    result = AudioConfig.model_validate({"type": "audio"} | values).build().with_boundaries(expected)
    return result


def sound(seconds: float, rate: int = 16000, **starts: tuple[float, ...]) -> Audio:
    return Audio(0.1 * torch.randn(round(seconds * rate)), rate, starts)


def test_sounds_of_mixed_rates_and_lengths_are_packed() -> None:
    front_end = tokenizer()
    tokens = front_end([sound(0.5), sound(0.031, 44100), sound(0.2, 8000)])
    assert tokens.spans.lengths.tolist() == [50, 4, 20]
    assert tokens.x.shape == (74, 80) and tokens.x.dtype == torch.float32
    assert tokens.coords_TC[50:54, 0].tolist() == [0, 1, 2, 3]
    assert front_end.seconds_per_token == 0.01 and front_end.features == 80
    assert front_end.lookahead_seconds == 0.0075
    sizes = [front_end.size((8000, 16000)), front_end.size((1367, 44100)), front_end.size((1600, 8000))]
    assert sizes == [50, 4, 20]


def test_what_is_packed_is_what_stands_alone() -> None:
    front_end = tokenizer(norm={"running_s": 1.0})
    sounds = [sound(0.3), sound(0.1), sound(0.25, 11025)]
    together = front_end(sounds).split()
    for one, part in zip(sounds, together, strict=True):
        assert torch.equal(front_end([one]).x, part)


def test_a_sound_is_normalised_by_itself() -> None:
    """Loudness and the depth of silence change nothing; nothing of other sounds does, nor do hidden parts."""
    front_end = tokenizer(norm={"whole": 0})
    wave = torch.randn(8000) * torch.linspace(0.05, 1, 8000)
    quiet, loud = front_end([Audio(0.1 * wave, 16000), Audio(wave, 16000)]).split()
    assert torch.allclose(quiet, loud, atol=0.05)
    assert abs(float(loud.mean())) < 1e-5 and float(loud.std()) == pytest.approx(1, abs=1e-3)
    assert torch.equal(front_end([Audio(wave, 16000)]).x, loud)
    hidden = front_end([Audio(wave, 16000, hidden=(Hidden((0.1, 0.2)),))]).x
    assert not hidden[10:20].any() and torch.equal(hidden[20:], loud[20:])
    half, bands = (tokenizer(norm={"whole": share})([Audio(wave, 16000)]).x for share in (0.5, 1))
    assert torch.allclose(half, loud - 0.5 * loud.mean(0), atol=1e-4)
    assert torch.allclose(bands, loud - loud.mean(0), atol=1e-4)
    assert front_end([Audio(torch.zeros(800), 16000)]).x.isfinite().all()
    assert not tokenizer(norm={"whole": 1})([Audio(torch.zeros(800), 16000)]).x.any()
    with pytest.raises(UserError, match="which a stream is not"):
        front_end.stream()
    with pytest.raises(ConfigError, match=r"with modality\.norm\.whole each depends on its whole sample"):
        Encoder(hierarchy(causal=True), front_end)
    with pytest.raises(ValidationError, match="drop one of them"):
        tokenizer(norm={"whole": 0, "running_s": 1.0})


def test_times_become_the_nearest_tokens() -> None:
    front_end = tokenizer("words")
    times = (0.0, 0.014, 0.016, 0.0951, 0.1, 0.2)
    tokens = front_end([sound(0.2, words=times)])
    assert tokens.boundaries["words"].nonzero().flatten().tolist() == [0, 1, 2, 10]
    assert set(tokens.boundaries) == {"words"}
    stacked = tokenizer("words", stem={"frames": 4})
    assert stacked.seconds_per_token == 0.04
    tokens = stacked([sound(0.2, words=(0.07, 0.11))])
    assert tokens.boundaries["words"].nonzero().flatten().tolist() == [0, 2, 3]


def test_a_missing_boundary_is_named() -> None:
    with pytest.raises(BadSample, match=r"no boundary 'phonemes'; it has words"):
        tokenizer("phonemes")([sound(0.2, words=(0.0,))])
    with pytest.raises(BadSample, match="another file"):
        tokenizer("words")([sound(0.2, words=(0.0, 1.0))])


def test_too_long_a_sound() -> None:
    with pytest.raises(BadSample, match=r"lasts 0.5 s, longer than modality.max_seconds 0.4"):
        tokenizer(max_seconds=0.4)([sound(0.5)])


def test_hidden_parts_are_zero() -> None:
    audio = sound(0.5)
    plain = tokenizer()([audio]).x
    parts = (Hidden(seconds=(0.1, 0.2)), Hidden(bands=(0.25, 0.5)), Hidden((0.4, 9.0), (0.0, 0.1)))
    hidden = tokenizer()([Audio(audio.waveform_S, 16000, hidden=parts)]).x
    mask = torch.zeros(50, 80, dtype=torch.bool)
    mask[10:20] = mask[:, 20:40] = mask[40:, :8] = True
    assert torch.equal(hidden == 0, mask) and torch.equal(hidden[~mask], plain[~mask])
    with pytest.raises(ConfigError, match="no bands"):
        tokenizer(features="waveform")([Audio(audio.waveform_S, 16000, hidden=parts)])


@pytest.mark.parametrize("warp", [0.7, 0.9, 1.2, 1.4])
def test_warped_bands_are_those_of_moved_tones(warp: float) -> None:
    front_end = tokenizer(rate=8000, mels=40)
    times = torch.arange(4000) / 8000
    for hertz in (300, 900, 2400):
        tone, moved = (0.5 * torch.sin(2 * torch.pi * pitch * times) for pitch in (hertz, hertz * warp))
        result = front_end.encode(Audio(tone, 8000, warp=warp))[20:30].mean(0)
        expected = front_end.encode(Audio(moved, 8000))[20:30].mean(0)
        assert abs(int(result.argmax()) - int(expected.argmax())) <= 1
        assert abs(float(result.max() - expected.max())) < 0.3
    noise = front_end.encode(Audio(torch.randn(8000), 8000, warp=warp))
    assert abs(float(noise.mean()) - 12 / 4) < 0.3 and noise.isfinite().all()
    with pytest.raises(ConfigError, match="no bands to move"):
        tokenizer(features="waveform")([Audio(torch.zeros(100), 16000, warp=warp)])


def test_waveforms_come_back() -> None:
    front_end = tokenizer(features="waveform", stem={"frames": 2})
    sounds = [sound(0.3), sound(0.1)]
    for before, after in zip(sounds, front_end.restore(front_end(sounds)), strict=True):
        assert torch.allclose(after.waveform_S[: len(before.waveform_S)], before.waveform_S, atol=1e-6)
    with pytest.raises(ConfigError, match="features: waveform"):
        tokenizer().restore(tokenizer()([sound(0.1)]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window_ms": 5}, "samples would be lost"),
        ({"hop_ms": 0.01}, "less than a sample"),
        ({"highest_hz": 9000}, "half the rate"),
        ({"lowest_hz": 8000}, "do not rise"),
        ({"features": "waveform", "mels": 40}, "mels has no effect"),
        ({"features": "waveform", "stem": {"channels": 4}}, "go over bands"),
        ({"scale": 1.0}, "scale has no effect"),
        ({"rate": 10}, "greater than or equal to 1000"),
        ({"max_seconds": 0}, "greater than 0"),
    ],
)
def test_impossible_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AudioConfig.model_validate({"type": "audio"} | values)


@pytest.mark.parametrize("channels", [0, 3])
@pytest.mark.parametrize(("recent", "ahead"), [(1, 0), (4, 0), (3, 2), (40, 9)])
def test_the_stem_sees_its_neighbours_and_no_others(recent: int, ahead: int, channels: int) -> None:
    stem = AudioConvStem(6, 8, StemConfig(frames=2, recent=recent, ahead=ahead, channels=channels))
    lengths = [5, 12, 1]
    x_TF = torch.randn(18, 6, requires_grad=True)
    samples = list(x_TF.split(lengths))
    out = stem(Tokens.pack(samples))
    assert out.x.shape == (18, 8)
    (grad_TF,) = torch.autograd.grad(out.x[11].sum(), x_TF)
    seen = grad_TF.abs().sum(1).nonzero().flatten().tolist()
    assert seen == list(range(max(5, 11 - recent + 1), min(16, 11 + ahead) + 1))
    alone = stem(Tokens.pack([samples[1]]))
    assert torch.allclose(alone.x, out.x[5:17], atol=1e-6)


def test_convolutions_go_over_time_in_order_and_bands() -> None:
    """Three tokens of two frames of 12 bands: what the first convolution makes of the frames in a row."""
    stem = AudioConvStem(24, 8, StemConfig(frames=2, recent=2, ahead=1, channels=4))
    frames = torch.randn(6, 12)
    out = stem(Tokens.pack([frames.reshape(3, 24)])).x[1]
    gelu = torch.nn.functional.gelu
    assert isinstance(stem.wide, BandMap)
    result = gelu(stem.wide.second(gelu(stem.wide.first(frames[None, None]))))
    expected = stem.own(frames[2:4].flatten()) + stem.out(gelu(stem.wide.map(result.flatten())))
    assert torch.allclose(out, expected, atol=1e-6)


def hierarchy(causal: bool) -> HierarchyConfig:
    frames = {"name": "frames", "dim": 16, "depth": 1, "heads": 2, "window": 8, "window_type": "sliding"}
    levels = [
        frames | {"group": {"type": "fixed", "stride": 4}},
        {"name": "words", "dim": 16, "depth": 1, "heads": 2},
    ]
    return HierarchyConfig.model_validate({"levels": levels, "top_down": True, "causal": causal})


def test_a_causal_model_takes_no_stem_that_looks_ahead() -> None:
    looking = tokenizer(mels=8, stem={"ahead": 2})
    Encoder(hierarchy(causal=False), looking)
    with pytest.raises(ConfigError, match="the 2 after"):
        Encoder(hierarchy(causal=True), looking)


def test_a_causal_model_depends_on_no_later_sound() -> None:
    front_end = tokenizer(mels=8, norm={"running_s": 0.1})
    encoder = Encoder(hierarchy(causal=True), front_end).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        wave = torch.randn(6400)
        before = encoder(front_end([Audio(wave, 16000)]))["frames"].x
        wave = wave.clone()
        wave[3200:] = 0
        after = encoder(front_end([Audio(wave, 16000)]))["frames"].x
    same = (before - after).abs().amax(1) < 1e-5
    assert same[:19].all() and not same[20:].any()


def test_a_sound_can_be_one_group() -> None:
    tokens = tokenizer("sounds", "words")([sound(0.3, words=(0.0, 0.1)), sound(0.05, words=(0.0,))])
    assert tokens.boundaries["sounds"].nonzero().flatten().tolist() == [0, 30]
    assert tokens.boundaries["words"].nonzero().flatten().tolist() == [0, 10, 30]
    with pytest.raises(ValidationError, match="drop it from carried"):
        AudioConfig(type="audio", carried=("sounds", "words"))
