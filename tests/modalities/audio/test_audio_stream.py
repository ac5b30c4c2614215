"""A stream over a causal model equals what it makes of the whole sound, whatever the size of the chunks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.pooling import POOLINGS
from hrt_mm.inference.streaming import Stream
from hrt_mm.inference.streaming.stream import joined
from hrt_mm.tasks.encoder import Encoder
from hrt_modalities.audio import Audio, AudioConfig, AudioTokenizer
from hrt_modalities.text import ByteTokenizer

FIXED = {"type": "fixed", "stride": 4}
LEARNED = {"type": "learned", "target": 4, "max": 12}
CHUNKS_MS = (10, 37, 160, 1000)


def tokenizer(**values: Any) -> AudioTokenizer:
    settings = {"type": "audio", "mels": 24, "stem": {"frames": 2, "recent": 4}, "norm": {"running_s": 1.0}}
    return AudioConfig.model_validate(settings | values).build()


def encoder(front_end: AudioTokenizer, pool: str = "attention", group: dict[str, Any] = FIXED) -> Encoder:
    sliding = {"window_type": "sliding", "heads": 2}
    levels = [
        {"name": "frames", "dim": 16, "depth": 1, "window": 8, "pool": pool, "group": group} | sliding,
        {"name": "phonemes", "dim": 24, "depth": 2, "window": 6, "pool": pool, "group": FIXED} | sliding,
        {"name": "words", "dim": 16, "depth": 1, "window": 4} | sliding,
    ]
    settings = {"levels": levels, "causal": True, "top_down": True, "cross_scale": {"up": True, "down": True}}
    made = Encoder(HierarchyConfig.model_validate(settings), front_end)
    generator = torch.Generator().manual_seed(5)
    for parameter in made.parameters():
        scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim == 2 else 0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return made.eval()


def difference(made: Encoder, front_end: AudioTokenizer, sound: Audio, chunk_ms: int) -> float:
    """The largest, over all levels."""
    stream = Stream(made, front_end, rate=sound.rate)
    chunks = sound.waveform_S.split(max(1, round(sound.rate * chunk_ms / 1000)))
    result = joined([*(stream.feed(chunk) for chunk in chunks), stream.flush()])
    with torch.no_grad():
        whole = made(front_end([sound]))
    for name in whole.names:
        assert len(result[name]) == len(whole[name].x)
    return max(float((result[name].x_ND - whole[name].x).abs().max()) for name in whole.names)


def noise(seconds: float, rate: int) -> Audio:
    generator = torch.Generator().manual_seed(1)
    return Audio(0.1 * torch.randn(round(seconds * rate), generator=generator), rate)


@pytest.mark.parametrize("group", [FIXED, LEARNED], ids=["fixed", "learned"])
@pytest.mark.parametrize("pool", sorted(POOLINGS))
def test_chunks_equal_the_whole_sound(pool: str, group: dict[str, Any]) -> None:
    front_end = tokenizer()
    made = encoder(front_end, pool, group)
    for chunk_ms in CHUNKS_MS if pool == "attention" else (37, 1000):
        assert difference(made, front_end, noise(1.73, 16000), chunk_ms) < 1e-4, chunk_ms


@pytest.mark.parametrize(("rate", "settings"), [(44100, {}), (8000, {"features": "waveform", "norm": {}})])
def test_of_any_rate_and_features(rate: int, settings: dict[str, Any]) -> None:
    front_end = tokenizer(**({"mels": 80} if settings else {}), **settings)
    assert difference(encoder(front_end), front_end, noise(1.1, rate), 37) < 1e-4


@pytest.mark.parametrize("samples", [1, 100, 320, 321, 2560])
def test_short_sounds(samples: int) -> None:
    front_end = tokenizer()
    assert difference(encoder(front_end), front_end, noise(samples / 16000, 16000), 10) < 1e-4


def test_large_chunks_go_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    front_end = tokenizer()
    made, sound = encoder(front_end), noise(2.0, 16000)
    monkeypatch.setattr("hrt_mm.inference.streaming.stream.PIECE", 13)
    assert difference(made, front_end, sound, 2000) < 1e-4


def test_a_wrong_context_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the tests above can fail."""
    front_end = tokenizer()
    made, sound = encoder(front_end), noise(1.0, 16000)
    monkeypatch.setattr(front_end, "receptive_field", 1)
    assert difference(made, front_end, sound, 37) > 1e-3


def test_chunks_that_are_no_sound_are_refused() -> None:
    front_end = tokenizer()
    stream = Stream(encoder(front_end), front_end)
    with pytest.raises(BadSample, match="has nan at sample 3"):
        stream.feed(torch.tensor([0.0, 0.1, 0.2, float("nan")]))
    with pytest.raises(BadSample, match="expected a float32 tensor"):
        stream.feed(torch.zeros(10, 2))


def test_a_modality_without_chunks_says_so() -> None:
    with pytest.raises(ConfigError, match="ByteTokenizer cannot be read in chunks"):
        Stream(encoder(tokenizer()), ByteTokenizer())
