"""A trained model of few steps and its index, and an untrained one of sounds and videos, for the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from demos.command import prepare
from hrt_mm.config import load_config
from hrt_mm.inference.trained import TrainedRun
from hrt_mm.retrieval.collecting import embed_files
from hrt_mm.retrieval.collection import Collection
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.retrieval.index import Index
from hrt_mm.retrieval.rows import Model
from hrt_mm.retrieval.search import Searcher
from hrt_mm.train.build import build_task, build_tokenizers
from tests.modalities.video.films import film

SMALL = [
    "data.scripts=[braille]", "train.steps=2", "train.batch_size=16", "train.eval_every=2", "train.tensorboard=false",
    "train.num_threads=1", "optim.warmup_steps=1",
]  # fmt: skip
SOUNDS = """\
towers:
  audio:
    modality: {type: audio, mels: 32}
    model: {levels: [{name: frames, dim: 16, heads: 2, depth: 1, window: 16, window_type: sliding}]}
  video:
    modality: {type: video, size: 16, patch: 8}
    model: {levels: [{name: tubes, dim: 16, heads: 2, depth: 1}]}
task: {type: contrastive, dim: 12}
data: {type: grid_triples, root: /nowhere}
train: {steps: 1, batch_size: 2}
"""


@pytest.fixture(scope="session")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return prepare(tmp_path_factory.mktemp("demo"), SMALL)


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """Four tones to be found by sounds, and by videos."""
    folder = tmp_path_factory.mktemp("sounds")
    (folder / "small.yaml").write_text(SOUNDS)
    config = load_config(folder / "small.yaml")
    tokenizers = build_tokenizers(config)
    torch.manual_seed(0)
    checkpoint: Any = None
    task = build_task(config, tokenizers, None).eval()
    embedder = Embedder(TrainedRun(folder, config, task, tokenizers, None, checkpoint), Model("0" * 64, 12))
    files = [tone(folder / f"tone-{pitch}.wav", pitch) for pitch in (200, 400, 800, 1600)]
    embed_files(embedder, "audio", files, folder / "vectors", media=True)
    index = Index.create(folder / "index", embedder.model)
    index.add(Collection(folder / "vectors"))
    return Searcher(index, embedder)


def tone(path: Path, pitch: float, seconds: float = 0.5, *, rate: int = 16_000, channels: int = 1) -> Path:
    """Writes a tone in 16 bits, as a browser writes what it has recorded."""
    wave_S = 0.5 * torch.sin(2 * torch.pi * pitch * torch.arange(round(seconds * rate)) / rate)
    samples_SC = (wave_S * 32767).round().to(torch.int16)[:, None].expand(-1, channels)
    soundfile.write(path, samples_SC.numpy(), rate, subtype="PCM_16")
    return path


@pytest.fixture(scope="session")
def films(sounds: Searcher, tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """A film of three seconds, with the moments in it."""
    folder = tmp_path_factory.mktemp("films")
    path = film(folder / "film.mp4", 24, size=(64, 64), rate=8)
    embed_files(sounds.embedder, "video", [path], folder / "vectors", media=True, levels=["tubes"])
    index = Index.create(folder / "index", sounds.embedder.model)
    index.add(Collection(folder / "vectors"))
    return Searcher(index, sounds.embedder)
