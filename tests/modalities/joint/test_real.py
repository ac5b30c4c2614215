"""The joint datasets on real data, a few samples of each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hrt_modalities.audio import Audio
from hrt_modalities.corpora.emoji import EmojiConfig
from hrt_modalities.corpora.grid.triples import GridTriplesConfig
from hrt_modalities.corpora.spoken_written_digits import SpokenWrittenConfig
from hrt_modalities.video import Video
from hrt_modalities.video.cache import CacheConfig

DATA = Path(os.environ.get("HRT_MM_DATA", "/nowhere"))


def needs(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / folder).is_dir(), reason=f"HRT_MM_DATA has no {folder}")


@needs("emoji")
def test_emoji_have_two_drawings_a_name_and_their_own_split() -> None:
    config = EmojiConfig(type="emoji", root=DATA / "emoji", languages=("en", "de"))
    splits = {split: config.build(split) for split in ("train", "val", "test")}
    assert {split: len(result) for split, result in splits.items()} == {"train": 1452, "val": 233, "test": 185}
    test = splits["test"]
    sample = test[0]
    assert sample.value["noto"].shape == (3, 128, 128)
    assert sample.value["text"] == test.describe(0)["name"]
    assert any(test[index].value["emojitwo"] is None for index in range(40))
    small = EmojiConfig(type="emoji", root=DATA / "emoji", size=64)
    once, again = (small.build("train")[0].value["noto"] for _ in range(2))
    assert once.shape == (3, 64, 64) and torch.equal(once, again)
    assert small.build("test")[0].value["noto"].shape == (3, 128, 128)
    both = EmojiConfig(type="emoji", root=DATA / "emoji", both=True).build("test")
    assert 100 < len(both) < 185
    assert all(both[index].value["emojitwo"] is not None for index in range(5))
    torch.manual_seed(0)
    assert len({splits["train"][3].value["text"] for _ in range(12)}) > 3
    assert config.plain("train")[3].value["text"] == splits["train"].describe(3)["name"]


@needs("grid_s1")
def test_grid_has_the_same_sentence_three_times() -> None:
    pytest.importorskip("decord")
    result = GridTriplesConfig(type="grid_triples", root=DATA / "grid_s1").build("test")
    assert len(result) == 100
    sample = result[0]
    assert isinstance(sample.value["audio"], Audio)
    assert isinstance(sample.value["video"], Video)
    assert sample.value["text"] == sample.label == result.describe(0)["sentence"]
    assert Path(result.sound[0].name).stem == Path(result.video[0].name).stem
    for said in (result[0], result[50]):
        words = said.pieces["words"]
        assert [piece.label for piece in words] == said.label.split()
        assert [said.label[slice(*map(int, piece.where["text"]))] for piece in words] == said.label.split()
        times = [piece.where["audio"] for piece in words]
        assert all(0 < start < end < 3 for start, end in times) and times == sorted(times)
        assert [piece.where["video"] for piece in words] == times
    config = GridTriplesConfig(type="grid_triples", root=DATA / "grid_s1", use=("audio",), label="letter")
    letters = config.build("test")
    assert letters.classes is not None and len(letters.classes) == 25
    assert letters[0].label == sample.label.split()[3]
    assert set(letters[0].value) == {"audio"}
    noisy = config.model_copy(update={"noise_db": -5.0})
    clean, noise = letters[0].value["audio"].waveform_S, noisy.build("test")[0].value["audio"].waveform_S
    assert torch.equal(noise, noisy.build("test")[0].value["audio"].waveform_S)
    ratio = 10 * torch.log10(clean.square().mean() / (noise - clean).square().mean())
    assert ratio == pytest.approx(-5, abs=0.1)
    assert torch.equal(noisy.plain("test")[0].value["audio"].waveform_S, clean)
    babble = noisy.model_copy(update={"noise": "babble"}).build("test")
    noise = babble[0].value["audio"].waveform_S
    assert torch.equal(noise, babble[0].value["audio"].waveform_S)
    ratio = 10 * torch.log10(clean.square().mean() / (noise - clean).square().mean())
    assert ratio == pytest.approx(-5, abs=0.1)


@needs("grid_s1")
def test_words_are_cut_out_of_sentences(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    config = GridTriplesConfig(
        type="grid_triples", root=DATA / "grid_s1", unit="word", label="word", cache=CacheConfig(dir=tmp_path)
    )
    whole, result = GridTriplesConfig(type="grid_triples", root=DATA / "grid_s1").build("test"), config.build("test")
    assert len(result) == 600 and result.classes is not None and len(result.classes) == 51
    sentence, words = whole[0], [result[index] for index in range(6)]
    assert [word.label for word in words] == sentence.label.split() == [word.value["text"] for word in words]
    assert result.describe(3) == {"word": words[3].label}
    for word, piece in zip(words, sentence.pieces["words"], strict=True):
        start, end = piece.where["audio"]
        sound, video, rate = word.value["audio"], word.value["video"], sentence.value["audio"].rate
        assert sound.seconds == pytest.approx(end - start + 0.2, abs=1e-3)
        first = round((start - 0.1) * rate)
        own = sentence.value["audio"].waveform_S[first : first + len(sound.waveform_S)]
        assert (sound.waveform_S - own).abs().max() < 1e-4
        assert abs(len(video.pixels_NCHW) - 25 * video.seconds) <= 1.5 and video.seconds == pytest.approx(
            sound.seconds, abs=0.05
        )
        frames = sentence.value["video"].pixels_NCHW
        assert any(torch.equal(frame, video.pixels_NCHW[0]) for frame in frames)
    # Frames that are kept are those that were decoded.
    assert torch.equal(result[2].value["video"].pixels_NCHW, words[2].value["video"].pixels_NCHW)
    assert any(tmp_path.glob("*.npy"))


@needs("fsdd")
def test_spoken_digits_meet_written_ones() -> None:
    config = SpokenWrittenConfig(type="spoken_written_digits", sounds=DATA / "fsdd", pictures=DATA, leave_out="george")
    train, test = config.build("train"), config.build("test")
    assert len(test) == 500
    assert "george" in test[0].name and "george" not in train[0].name
    torch.manual_seed(0)
    one, two = train[0], train[0]
    assert one.label == two.label == one.value["text"]
    assert not torch.equal(one.value["image"], two.value["image"])
    assert torch.equal(test[3].value["image"], test[3].value["image"])
