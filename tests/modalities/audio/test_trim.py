from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hrt_modalities.audio.audio import Audio
from hrt_modalities.audio.augment import trimmed
from hrt_modalities.corpora.fsdd import FsddConfig

RATE = 8000


def word(before: float, during: float, after: float, noise: float = 0.001) -> torch.Tensor:
    """Loud noise in faint noise; lengths in seconds."""
    level = [(before, noise), (during, 0.3), (after, noise)]
    return torch.cat([gain * torch.randn(round(seconds * RATE)) for seconds, gain in level])


@pytest.mark.parametrize(("before", "after"), [(0.2, 0.3), (0.0, 0.5), (0.4, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("gain", [1.0, 0.02])
def test_quiet_ends_are_cut_off_whatever_the_level(before: float, after: float, gain: float) -> None:
    result = trimmed(Audio(gain * word(before, 0.25, after), RATE), 30)
    margin = 0.01 * ((before > 0) + (after > 0))
    assert result.seconds == pytest.approx(0.25 + margin, abs=0.0011)


def test_groups_move_along_and_those_cut_off_are_gone() -> None:
    boundaries = {"words": (0.0, 0.2, 0.45), "phonemes": (0.0, 0.05, 0.2, 0.3, 0.45), "bare": (0.0,)}
    labels = {"words": ("sil", "one", "sil"), "phonemes": ("a", "b", "W", "AH", "c")}
    result = trimmed(Audio(word(0.2, 0.25, 0.3), RATE, boundaries, labels), 30)
    assert result.boundaries["words"] == pytest.approx((0.0, 0.01, 0.26))
    assert result.labels["words"] == ("sil", "one", "sil")
    assert result.boundaries["phonemes"] == pytest.approx((0.0, 0.01, 0.11, 0.26))
    assert result.labels["phonemes"] == ("b", "W", "AH", "c")
    assert result.boundaries["bare"] == (0.0,)


@pytest.mark.parametrize("samples", [1, 79, 80, 8000])
def test_silence_and_single_samples_stay(samples: int) -> None:
    for wave in (torch.zeros(samples), torch.full((samples,), 0.5)):
        assert torch.equal(trimmed(Audio(wave, RATE), 30).waveform_S, wave)


def test_all_splits_of_a_dataset_are_trimmed(tmp_path: Path) -> None:
    rows = ["path\tword\tarpabet\tspeaker\tsplit"]
    for number, (name, split) in enumerate([("zero", "train"), ("one", "train")] * 8 + [("one", "test")]):
        soundfile.write(tmp_path / f"{number}.wav", np.asarray(word(0.3, 0.2, 0.3)), RATE)
        rows.append(f"{number}.wav\t{name}\tZ\tann\t{split}")
    (tmp_path / "index.tsv").write_text("\n".join(rows))
    settings = {"type": "fsdd", "root": tmp_path}
    for split in ("train", "test"):
        plain = FsddConfig.model_validate(settings).build(split)
        result = FsddConfig.model_validate({**settings, "trim_db": 30}).build(split)
        assert [plain[0].value.seconds, result[0].value.seconds] == pytest.approx([0.8, 0.22], abs=0.002)


def test_sounds_from_elsewhere_are_trimmed_as_those_of_the_data(tmp_path: Path) -> None:
    sound = Audio(word(0.2, 0.25, 0.3), RATE)
    config = FsddConfig(type="fsdd", root=tmp_path, trim_db=30)
    assert torch.equal(config.prepare("", sound).waveform_S, trimmed(sound, 30).waveform_S)
    assert FsddConfig(type="fsdd", root=tmp_path).prepare("", sound) is sound
