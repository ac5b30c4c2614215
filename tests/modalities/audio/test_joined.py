"""Sounds strung together for training on streams."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hrt_mm.core.errors import BadSample, ConfigError
from hrt_mm.data.dataset import Dataset
from hrt_modalities.audio.folders import AudioManifestConfig
from hrt_modalities.audio.joined import Joined
from tests.modalities.audio.small_corpora import sound


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = ["path\tlabel\tsplit"]
    for number, (text, split) in enumerate([("a b", "train"), ("c", "train"), ("b a", "val"), ("c c", "test")]):
        sound(tmp_path / f"{number}.wav", seconds=0.1 + number / 80)
        rows.append(f"{number}.wav\t{text}\t{split}")
    (tmp_path / "t.tsv").write_text("\n".join(rows) + "\n")
    return tmp_path / "t.tsv"


def read(table: Path, split: str = "train", **values: object) -> Dataset:
    settings = {"type": "audio_manifest", "file": table, "label": "words", "join": 3}
    return AudioManifestConfig.model_validate(settings | values).build(split)


def test_labels_and_sounds_are_strung_together(table: Path) -> None:
    result = read(table)
    assert isinstance(result, Joined) and len(result) == 2
    lengths = {("a", "b"): 800, ("c",): 900}
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        sample = result[seed % 2]
        seen.add(tuple(sample.label))
        label, samples = list(sample.label), 0
        while label:
            words = ("a", "b") if label[0] == "a" else ("c",)
            assert tuple(label[: len(words)]) == words
            label, samples = label[len(words) :], samples + lengths[words]
        assert len(sample.value.waveform_S) == samples
    assert ("a", "b") in seen and max(map(len, seen)) > 3
    torch.manual_seed(1)
    again = result[0]
    torch.manual_seed(1)
    assert torch.equal(again.value.waveform_S, result[0].value.waveform_S)


def test_other_splits_stay_as_they_are(table: Path) -> None:
    assert not isinstance(read(table, "test"), Joined)
    assert read(table, "test")[0].label == ["c", "c"]
    assert not isinstance(read(table, join=1), Joined)


def test_characters_get_a_space_between(table: Path) -> None:
    result = read(table, label="characters")
    torch.manual_seed(3)
    labels = ["".join(result[1].label) for _ in range(10)]
    assert any(" " in label for label in labels) and all(set(label.split()) <= {"a", "b", "c"} for label in labels)
    assert result.classes is not None and " " in result.classes
    assert read(table, "test", label="characters").classes == result.classes


def test_what_cannot_be_strung_is_refused(table: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.join strings labels together that are lists"):
        read(table, label="text")
    sound(table.parent / "1.wav", rate=16000)
    result = read(table)
    torch.manual_seed(0)
    with pytest.raises(BadSample, match=r"has \d+ samples a second, the sound that it is joined with \d+"):
        [result[0] for _ in range(20)]
