from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from hrt_mm.data.dataset import Dataset
from hrt_mm.data.sample import Sample
from hrt_modalities.audio import Audio
from hrt_modalities.corpora.grid.triples import GridTriplesConfig
from hrt_modalities.joint.noise import Babble, add_noise, one_of, white


class Tones(Dataset):
    """Sounds that are told apart by their pitch: place n is a tone of 100 (n + 1) Hz, and louder the later."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        times = torch.arange(4000) / 8000
        return Sample(Audio((index + 1) * torch.sin(6.2832 * 100 * (index + 1) * times), 8000))


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_babble_is_a_mix_of_others_of_equal_strength() -> None:
    tones, sound = Tones(), Audio(torch.randn(10_000), 8000)
    noise = Babble(tones, 3)(sound, draw(), exclude=4)
    assert noise.shape == (10_000,)
    assert noise.square().mean() == pytest.approx(1, abs=1e-4)
    assert len(set(tones.read)) == 3 and 4 not in tones.read
    power = torch.fft.rfft(noise[:8000]).abs().square()
    heard = {index: float(power[100 * (index + 1) - 2 : 100 * (index + 1) + 3].sum()) for index in range(9)}
    loud = sorted(heard, key=lambda index: -heard[index])[:3]
    assert set(loud) == set(tones.read)
    assert max(heard[index] for index in loud) < 1.5 * min(heard[index] for index in loud)


def test_noise_is_drawn_by_its_seed_alone() -> None:
    sound, babble = Audio(torch.randn(2000), 16_000), Babble(Tones(), 2)
    assert torch.equal(babble(sound, draw(1), None), babble(sound, draw(1), None))
    assert not torch.equal(babble(sound, draw(1), None), babble(sound, draw(2), None))


@pytest.mark.parametrize("decibels", [-10.0, 0.0, 20.0])
def test_the_ratio_of_powers_is_as_asked(decibels: float) -> None:
    sound = Audio(0.1 * torch.randn(16_000), 16_000)
    for noise in (white(sound, draw()), Babble(Tones(), 4)(sound, draw(), None)):
        result = add_noise(sound, noise, decibels).waveform_S - sound.waveform_S
        ratio = 10 * torch.log10(sound.waveform_S.square().mean() / result.square().mean())
        assert ratio == pytest.approx(decibels, abs=0.1)


def test_sentences_are_read_once() -> None:
    tones, sound = Tones(), Audio(torch.randn(2000), 16_000)
    babble = Babble(tones, 4)
    first = babble(sound, draw(), None)
    read = len(tones.read)
    assert read == 4 and torch.equal(babble(sound, draw(), None), first)
    assert len(tones.read) == read


def test_kinds_are_drawn_where_there_are_several() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert one_of(["babble"]) == "babble" and torch.equal(before, torch.get_rng_state())
    assert {one_of(["white", "babble"]) for _ in range(20)} == {"white", "babble"}


def test_words_are_labelled_by_themselves() -> None:
    with pytest.raises(ValidationError, match="unit: word goes with label: word alone"):
        GridTriplesConfig(type="grid_triples", root=Path("x"), unit="word")
    with pytest.raises(ValidationError, match="unit: sentence has no label: word"):
        GridTriplesConfig(type="grid_triples", root=Path("x"), label="word")
    with pytest.raises(ValidationError, match="margin_s has no effect on whole sentences"):
        GridTriplesConfig(type="grid_triples", root=Path("x"), margin_s=0.2)


def test_a_kind_without_a_ratio_is_refused() -> None:
    with pytest.raises(ValidationError, match="train_noise has no effect without train_noise_db"):
        GridTriplesConfig(type="grid_triples", root=Path("x"), train_noise=("babble",))
    with pytest.raises(ValidationError, match="noise has no effect without noise_db"):
        GridTriplesConfig(type="grid_triples", root=Path("x"), noise="babble")
