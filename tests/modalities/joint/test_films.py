from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from hrt_mm.config import load_config
from hrt_modalities.joint.drawing import ACTION_WORDS, COLOURS, SETTINGS, THINGS, ground, symbol
from hrt_modalities.joint.films import FilmsConfig, FootageConfig, Part, captions, scenes_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


def small(folder: Path, *use: Part, some_words: float = 0.3) -> FilmsConfig:
    film = FootageConfig(size=(32, 48), rate=8, shot_s=(1.25, 2.5), train=3, valid=2, test=4, folder=folder)
    return FilmsConfig(type="captioned_films", film=film, use=use, some_words=some_words)


def test_no_caption_of_one_split_is_in_another() -> None:
    result = captions()
    assert {split: len(item) for split, item in result.items()} == {"train": 736, "val": 80, "test": 144}
    assert len({caption for item in result.values() for caption in item}) == 960
    shown = {
        split: {
            (event.colour, event.thing, event.action)
            for edit in FootageConfig().edits(split)
            for scene in scenes_of(edit)
            for event in scene.events
        }
        for split in result
    }
    assert all(item <= set(result[split]) for split, item in shown.items())


def test_films_say_what_they_show_and_when(folder: Path) -> None:
    config = small(folder, "video", "text")
    films = config.plain("test")
    assert len(films) == 4
    for index, edit in enumerate(config.film.edits("test")):
        sample, scenes = films[index], scenes_of(edit)
        video, text = sample.value["video"], sample.value["text"]
        assert text == sample.label == films.describe(index)["caption"]
        assert video.boundaries["scenes"] == pytest.approx([scene.start for scene in scenes])
        assert video.boundaries["shots"] == pytest.approx(edit.starts)
        assert len(video.pixels_NCHW) == round(edit.seconds * 8)
        assert [piece.label for piece in sample.pieces["scenes"]] == text.split("; ")
        events = [event for scene in scenes for event in scene.events]
        assert [piece.label for piece in sample.pieces["shots"]] == [" ".join(event.words) for event in events]
        for tier in ("scenes", "shots"):
            for piece in sample.pieces[tier]:
                assert text[slice(*map(int, piece.where["text"]))] == piece.label
            times = [piece.where["video"] for piece in sample.pieces[tier]]
            assert times[0][0] == 0 and times[-1][1] == pytest.approx(edit.seconds)
            assert all(one[1] == other[0] for one, other in pairwise(times))
        assert all(one.setting != other.setting for one, other in pairwise(scenes))


def test_training_captions_lose_words_and_keep_their_labels(folder: Path) -> None:
    films = small(folder, "text", some_words=1.0).build("train")
    samples = [films[1] for _ in range(12)]
    assert len({sample.value["text"] for sample in samples}) > 2
    assert len({sample.label for sample in samples}) == 1 and "video" not in samples[0].value
    for sample in samples:
        for piece in sample.pieces["shots"]:
            said = sample.value["text"][slice(*map(int, piece.where["text"]))].split()
            assert said and set(said) < set(piece.label.split())
    assert small(folder, "text", some_words=1.0).plain("train")[1].value["text"] == samples[0].label


def test_speech_says_the_same_at_known_times(folder: Path) -> None:
    pytest.importorskip("espeakng_loader", reason="eSpeak NG is not installed: the extra speech")
    films = small(folder, "text", "audio").build("test")
    for index in range(4):
        sample = films[index]
        sound = sample.value["audio"]
        for tier in ("scenes", "shots"):
            times = [piece.where["audio"] for piece in sample.pieces[tier]]
            assert all(0 <= start < end <= sound.seconds for start, end in times)
            assert all(one[1] <= other[0] + 1e-9 for one, other in pairwise(times))
        words = dict(zip(sound.boundaries["words"], sound.labels["words"], strict=True))
        for piece in sample.pieces["shots"]:
            start, end = piece.where["audio"]
            inside = [label for time, label in words.items() if start - 1e-9 <= time < end - 1e-9 and label != "sil"]
            assert inside == piece.label.split()
            own = sound.waveform_S[round(start * sound.rate) : round(end * sound.rate)]
            assert own.square().mean() > 1e-4


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_differ_by_more_than_their_views(setting: str) -> None:
    draw = np.random.default_rng(0)

    def mean(name: str) -> np.ndarray:
        return ground(name, (32, 48), draw).mean((0, 1))

    own = np.stack([mean(setting) for _ in range(8)])
    others = np.stack([mean(name) for name in SETTINGS if name != setting])
    away = np.abs(own[:, None] - own.mean(0)).max()
    assert away < np.abs(others - own.mean(0)).max(1).min() + 1e-6


def test_symbols_differ_and_have_their_colours() -> None:
    pictures = {thing: np.asarray(symbol(thing, "red", 24), np.float32) for thing in THINGS}
    masks = {thing: picture[..., 3] > 128 for thing, picture in pictures.items()}
    names = list(THINGS)
    overlaps = {
        (one, other): (masks[one] & masks[other]).sum() / (masks[one] | masks[other]).sum()
        for index, one in enumerate(names)
        for other in names[:index]
    }
    assert max(overlaps.values()) < 0.85, max(overlaps, key=lambda pair: overlaps[pair])
    for colour, shade in COLOURS.items():
        picture = np.asarray(symbol("heart", colour, 24))
        assert tuple(picture[12, 12, :3]) == shade and picture[0, 0, 3] == 0


def test_deeds_are_said_in_words_of_their_own() -> None:
    assert len(set(ACTION_WORDS.values())) == len(ACTION_WORDS)


def test_a_key_of_the_film_leaves_the_others_as_they_are() -> None:
    plain = load_config("retrieval/moments").data
    changed = load_config("retrieval/moments", ["data.film.cache.dir=frames"]).data
    assert isinstance(plain, FilmsConfig) and isinstance(changed, FilmsConfig)
    assert changed.film.cache is not None
    assert changed.film.model_copy(update={"cache": None}) == plain.film


def test_scenes_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="scenes goes from least to largest, got 3 to 2"):
        FootageConfig(scenes=(3, 2))


@pytest.mark.parametrize(
    ("name", "parts"), [("moments", {"video", "text"}), ("moments_spoken", {"video", "text", "audio"})]
)
def test_the_configurations_read_what_they_compare(name: str, parts: set[str]) -> None:
    config = load_config(f"retrieval/{name}")
    assert set(config.towers) == parts
    data, task = config.data, config.task
    assert isinstance(data, FilmsConfig) and set(data.use) == parts
    also: list[Mapping[str, str]] = [pair.levels for pair in task.also]  # type: ignore[attr-defined]
    assert [levels["video"] for levels in also] == ["scenes", "clips", "frames"]
    assert all(set(levels) == parts for levels in also)


def test_all_settings_are_named_where_that_is_asked_for(folder: Path) -> None:
    config = small(folder, "video", "text", some_words=0.0)
    some = config.build("train")
    every = config.model_copy(update={"all_settings": True}).build("train")
    assert [scene.setting for film in some.scenes for scene in film] == [
        scene.setting for film in every.scenes for scene in film
    ]
    for index in range(len(every)):
        scenes = every.scenes[index]
        text = every[index].value["text"]
        assert [part.split(":")[0] for part in text.split("; ")] == [scene.setting for scene in scenes]
    with pytest.raises(ValidationError, match="all_settings is not for use with audio"):
        FilmsConfig(type="captioned_films", use=("text", "audio"), all_settings=True)
