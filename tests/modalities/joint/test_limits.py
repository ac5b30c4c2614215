"""Datasets of several towers pass on what the tokenizers refuse, so that a file that is too long is not read whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from hrt_mm.core.errors import BadSample
from hrt_mm.data.dataset import Dataset
from hrt_mm.data.files import Home
from hrt_mm.data.sample import Sample
from hrt_mm.data.tokenizer import Tokenizer
from hrt_modalities.audio import AudioConfig
from hrt_modalities.audio.recordings import Recording, Recordings
from hrt_modalities.corpora.grid.triples import GridTriples, GridTriplesConfig
from hrt_modalities.corpora.spoken_written_digits import WORDS, SpokenWritten
from hrt_modalities.joint.films import Films, FilmsConfig
from hrt_modalities.joint.noise import Babble
from hrt_modalities.text import TextConfig
from hrt_modalities.video import VideoConfig
from hrt_modalities.vision import VisionConfig


class Silent(Dataset):
    """A tower that keeps what it was limited by."""

    classes = None
    limited: Tokenizer | None = None

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.zeros(1), "zero", "a")

    def limit(self, tokenizer: Tokenizer) -> None:
        self.limited = tokenizer


@pytest.fixture
def sounds(tmp_path: Path) -> Recordings:
    soundfile.write(tmp_path / "a.wav", torch.zeros(3 * 8000).numpy(), 8000)
    return Recordings(Home(tmp_path), [Recording("a.wav", "zero")], None)


def digits(sounds: Recordings, seen: Dataset) -> Dataset:
    return SpokenWritten(sounds, seen, list(WORDS), random=False)


def films(sounds: Recordings, seen: Dataset) -> Dataset:
    config = FilmsConfig(type="captioned_films", use=("video", "text", "audio"))
    return Films(config, [[]], seen, sounds, training=False)


def triples(sounds: Recordings, seen: Dataset) -> Dataset:
    config = GridTriplesConfig(type="grid_triples", root=sounds.root)
    return GridTriples(config, sounds, seen, [0], Babble(sounds, 1), training=False)


TOKENIZERS: dict[str, Tokenizer] = {
    "audio": AudioConfig(type="audio", max_seconds=2).build(),
    "text": TextConfig(type="text").build(),
    "image": VisionConfig(type="vision").build(),
    "video": VideoConfig(type="video").build(),
}


@pytest.mark.parametrize(("make", "tower"), [(digits, "image"), (films, "video"), (triples, "video")])
def test_each_tower_is_limited_by_its_tokenizer(make: Any, tower: str, sounds: Recordings) -> None:
    seen = Silent()
    dataset = make(sounds, seen)
    assert len(sounds[0].value.waveform_S) == 24000
    dataset.limit_towers({name: TOKENIZERS[name] for name in ("audio", "text", tower)})
    assert seen.limited is TOKENIZERS[tower]
    with pytest.raises(BadSample, match=r"a.wav: is longer than modality.max_seconds 2"):
        dataset[0]


def test_what_has_no_tokenizer_is_left_alone(sounds: Recordings) -> None:
    dataset = films(sounds, Silent())
    dataset.limit_towers({"text": TOKENIZERS["text"]})
    assert sounds.longest_s is None
    Films(FilmsConfig(type="captioned_films"), [[]], Silent(), None, training=False).limit_towers(TOKENIZERS)
