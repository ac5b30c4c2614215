"""A sound that is longer than any that training saw is embedded in stretches of the longest one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hrt_mm.config import load_config
from hrt_mm.data.extents import Extents
from hrt_mm.retrieval.collecting import embed_files
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.train.build import build_task, build_tokenizers
from hrt_modalities.audio import AudioModality, AudioTokenizer
from tests.retrieval.test_stretches import embedder as video_embedder

CONFIG = """\
towers:
  audio:
    modality: {type: audio, rate: 8000, mels: 16}
    model:
      levels:
        - {name: frames, dim: 16, heads: 2, depth: 1, group: {type: fixed, stride: 10}}
        - {name: words, dim: 24, heads: 2, depth: 1}
  text:
    modality: {type: text}
    model: {levels: [{name: bytes, dim: 24, heads: 2, depth: 1}]}
task: {type: contrastive, dim: 12}
data: {type: grid_triples, root: /nowhere}
train: {steps: 1, batch_size: 2}
"""


@pytest.fixture
def embedder(tmp_path: Path) -> Embedder:
    """A model that was trained on sounds of half a second to a second."""
    (tmp_path / "sound.yaml").write_text(CONFIG)
    config = load_config(tmp_path / "sound.yaml")
    tokenizers = build_tokenizers(config)
    audio = tokenizers["audio"]
    assert isinstance(audio, AudioTokenizer)
    tokenizers["audio"] = audio.with_extents(Extents((50,), (100,), (1.0, 1.0)))
    torch.manual_seed(0)
    task = build_task(config, tokenizers, None).eval()
    (tmp_path / "other").mkdir()
    other = video_embedder(tmp_path / "other", "")
    return replace(other, run=replace(other.run, config=config, task=task, tokenizers=tokenizers))


def noise(path: Path, seconds: float) -> Path:
    wave = np.random.default_rng(0).normal(0, 0.1, round(seconds * 8000))
    soundfile.write(path, wave, 8000, subtype="FLOAT")
    return path


def test_stretches_are_as_long_as_training_saw_and_cover_the_sound(embedder: Embedder, tmp_path: Path) -> None:
    reader = embedder.tokenizer("audio")
    assert isinstance(reader, AudioTokenizer)
    path = noise(tmp_path / "long.wav", 3.3)
    parts = list(AudioModality.stretches(path, reader, 8.0) or ())
    assert [len(part.value.waveform_S) for part in parts] == [8000, 8000, 8000, 2400]
    assert [part.core for part in parts] == [(0, 100), (100, 200), (200, 300), (300, float("inf"))]
    whole = AudioModality.read(path).waveform_S
    assert torch.equal(torch.cat([part.value.waveform_S for part in parts]), whole)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.0])
def test_sounds_as_long_as_those_of_training_are_read_whole(embedder: Embedder, tmp_path: Path, seconds: float) -> None:
    reader = embedder.tokenizer("audio")
    path = noise(tmp_path / "short.wav", seconds)
    assert AudioModality.stretches(path, reader, 8.0) is None
    assert isinstance(reader, AudioTokenizer)
    reader = reader.with_extents(None)
    assert AudioModality.stretches(noise(tmp_path / "long.wav", 9), reader, 8.0) is None


def test_the_vector_is_that_of_all_stretches(embedder: Embedder, tmp_path: Path) -> None:
    path = noise(tmp_path / "long.wav", 3.0)
    assert embed_files(embedder, "audio", [path], tmp_path / "vectors", levels=["words"]).counts == {"audio": 31}
    collection = Collection(tmp_path / "vectors")
    rows = list(collection.rows())
    assert [row.span for row in rows[1:4]] == [(0.0, 0.1), (0.1, 0.2), (0.2, 0.3)]
    assert rows[-1].span == (2.9, 3.0)
    # Levels that see no further than a stretch: each piece is that of its stretch alone.
    reader, encoder = embedder.tokenizer("audio"), embedder.task.encoder_of("audio")
    wave = AudioModality.read(path)
    with torch.no_grad():
        parts = [
            encoder(reader([replace(wave, waveform_S=wave.waveform_S[first : first + 8000])]))[-1].x
            for first in (0, 8000, 16000)
        ]
        mean = torch.cat(parts).mean(0, keepdim=True)
        expected = embedder._heads(0).mapped("audio", mean)[0]
    torch.testing.assert_close(torch.from_numpy(np.array(collection.vectors_ND[0])), expected, rtol=1e-4, atol=1e-5)
