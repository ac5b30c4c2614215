from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.time_span import TimeSpan
from hrt_modalities.audio import AudioConfig, synthesis
from hrt_modalities.audio.recordings import Recordings
from hrt_modalities.audio.synthesis import intervals
from hrt_modalities.audio.synthetic import SyntheticConfig

SMALL: dict[str, Any] = {"type": "synthetic_speech", "train": 8, "valid": 2, "test": 3}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("espeakng_loader", reason="the extra `speech` is not installed")
    return tmp_path_factory.mktemp("speech")


def speech(cache: Path, split: str = "train", **values: Any) -> Recordings:
    result = SyntheticConfig.model_validate(SMALL | {"cache": cache} | values).build(split)
    assert isinstance(result, Recordings)
    return result


def test_words_and_phonemes_are_where_sound_is(cache: Path) -> None:
    result = speech(cache, label="segments")
    phonemes = speech(cache, label="phoneme_segments")
    tokenizer = AudioConfig(type="audio").build().with_boundaries({"words", "phonemes"})
    assert len(result) == 8
    for index in range(8):
        sample = result[index]
        audio = sample.value
        assert audio.rate == 16000 and abs(int(result.shape(index)[0]) - len(audio.waveform_S)) == 0
        starts = audio.boundaries["words"]
        assert len(starts) == len(sample.label) and starts[0] == 0
        assert set(starts) <= set(audio.boundaries["phonemes"])
        assert len(audio.boundaries["phonemes"]) == len(phonemes[index].label)
        ends = [*starts[1:], audio.seconds]
        for start, end, label in zip(starts, ends, sample.label, strict=True):
            part = audio.waveform_S[round(start * 16000) + 80 : round(end * 16000) - 80]
            loud = float(part.square().mean().sqrt()) if len(part) else 0.0
            assert (loud < 0.005) == (label == "sil"), (label, loud)
        tokens = tokenizer([audio])
        assert int(tokens.boundaries["words"].sum()) == len(sample.label)


def test_splits_do_not_share_voices_and_labels_agree(cache: Path) -> None:
    config = SyntheticConfig.model_validate(SMALL | {"cache": cache})
    voices = {split: {line.voice for line in config.lines(split)} for split in ("train", "val", "test")}
    assert not voices["test"] & (voices["train"] | voices["val"])
    for index in range(8):
        words = speech(cache, label="words")[index].label
        assert speech(cache, label="text")[index].label == " ".join(words)
        assert "".join(speech(cache, label="characters")[index].label) == " ".join(words)
        assert "sil" not in speech(cache, label="phonemes")[index].label
    assert len(list(cache.iterdir())) == 1


def test_the_same_settings_give_the_same_speech(cache: Path, tmp_path: Path) -> None:
    first, second = speech(cache, "test"), speech(tmp_path, "test")
    for index in range(3):
        assert torch.equal(first[index].value.waveform_S, second[index].value.waveform_S)
    other = speech(tmp_path, "test", seed=1)
    assert [item.target for item in other.items] != [item.target for item in first.items]


def test_commands(cache: Path) -> None:
    result = speech(cache, content="commands", label="words")
    for index in range(8):
        assert len(result[index].label) == 5


def test_mistakes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no voice 'klingon9'"):
        speech(cache, voices=("klingon9",))
    with pytest.raises(ConfigError, match="cannot be written"):
        speech(Path("/proc/none"))
    monkeypatch.setattr(synthesis, "PACKAGE", "no-such-package")
    with pytest.raises(ConfigError, match=r"pip install 'hrt-mm\[speech\]'"):
        speech(cache, seed=5)
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"words_per_minute": (200, 100)}, "words_per_minute goes"),
        ({"pitch": (0, 120)}, "pitch goes"),
        ({"label": "word"}, "take words or text"),
        ({"content": "digit", "digits": (1, 2)}, "digits has no effect"),
        ({"label": "voice"}, "test_voices among"),
        ({"voices": ()}, "one voice or more"),
        ({"val": 0.2}, "val has no effect"),
    ],
)
def test_impossible_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SyntheticConfig.model_validate(SMALL | values)


def test_events_become_intervals() -> None:
    events = [
        (1, 1, 3, 0, ""),
        (7, 1, 0, 100, "t"),
        (7, 1, 0, 200, "'u:"),
        (7, 1, 0, 400, "_:"),
        (7, 1, 0, 500, "_"),
        (1, 5, 4, 600, ""),
        (7, 5, 0, 700, "n"),
        (7, 5, 0, 800, "'aI"),
        (1, 10, 1, 800, ""),
        (7, 10, 0, 850, "a#"),
        (7, 10, 0, 995, "_:"),
    ]
    words, phonemes = intervals(events, "two nine a", 1000, 1000)
    assert words == (
        TimeSpan(0, 0.4, "two"),
        TimeSpan(0.4, 0.6, "sil"),
        TimeSpan(0.6, 0.85, "nine"),
        TimeSpan(0.85, 1.0, "a"),
    )
    assert [(item.start, item.label) for item in phonemes] == [
        (0, "t"),
        (0.2, "u:"),
        (0.4, "sil"),
        (0.6, "n"),
        (0.8, "aI"),
        (0.85, "a#"),
    ]


def test_each_voice_speaks_in_each_variant() -> None:
    config = SyntheticConfig.model_validate(SMALL | {"voices": ["en-us", "en"], "variants": ["m1", "f1"]})
    assert config.trained_voices == ("en-us+m1", "en+m1", "en-us+f1", "en+f1")
    assert {line.voice for line in config.lines("train")} == set(config.trained_voices)
    assert {line.voice for line in config.lines("test")} <= set(config.test_voices)
    with pytest.raises(ValidationError, match="have a variant already"):
        SyntheticConfig.model_validate(SMALL | {"variants": ["m1"]})
