"""Captioned films: rendered scenes of moving symbols, with aligned captions as text and as speech.

They are generated on first use and cached; nothing is downloaded. Speech needs eSpeak NG (the extra ``speech``).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby, pairwise, product
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hrt_mm.core.errors import BadSample
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.files import Home
from hrt_mm.data.sample import Piece, Sample
from hrt_mm.data.tokenizer import Tokenizer

from ..audio.intervals import SILENCE
from ..audio.recordings import Recordings
from ..audio.synthesis import Line
from ..audio.synthetic import made_speech, recording, spoken
from ..common.media import limit_towers
from ..common.splits import SPLITS, check_split, hash_split
from ..video.clips import Clips
from ..video.edits import EditsConfig, Even
from ..video.rendering import ACTIONS, Drawn, Edit, Shot, joined
from .drawing import COLOURS, SETTINGS, THINGS, Event, ground

TEST, VAL = 0.15, 0.1
"""Fractions of all captions that occur only in the test, and only in the validation split."""
SINGLE = 0.8
"""Fraction of the training films that are a single shot."""
Part = Literal["video", "text", "audio"]
Probability = Annotated[float, Field(ge=0, le=1)]


class FootageConfig(EditsConfig):
    """The videos of films: scenes of one or more shots, each scene in one setting.

    They have the boundary ``scenes`` in addition to those of all edited videos. No caption is in two splits. Most
    training films are a single shot, and half of the training captions do not name the setting, so that shots are
    learned by their own words rather than by their context.
    """

    type: Literal["films"] = "films"
    size: tuple[Even, Even] = (32, 48)
    """Rows and columns."""
    rate: PositiveFloat = 8.0
    """Frames a second."""
    shot_s: tuple[PositiveFloat, PositiveFloat] = (1.0, 2.0)
    """Shortest and longest shot in seconds."""
    transition_s: tuple[PositiveFloat, PositiveFloat] = (0.25, 0.6)
    """Shortest and longest fade and wipe in seconds."""
    train: PositiveInt = 4000
    """Films to train on."""
    scenes: tuple[PositiveInt, PositiveInt] = (1, 2)
    """Fewest and most scenes of a film."""
    shots: tuple[PositiveInt, PositiveInt] = (1, 3)
    """Fewest and most shots of a scene."""

    @model_validator(mode="after")
    def _scenes_possible(self) -> FootageConfig:
        first, last = self.scenes
        if first > last:
            raise ValueError(f"scenes goes from least to largest, got {first} to {last}")
        return self

    def script(self, draw: random.Random, footage: Clips | None, split: str) -> Sequence[Shot]:
        """Scenes in changing settings, each with some captions, without repetition."""
        shots: list[Shot] = []
        setting, training = "", split == "train"
        single = training and draw.random() < SINGLE
        for scene in range(1 if single else draw.randint(*self.scenes)):
            setting = draw.choice([other for other in SETTINGS if other != setting])
            named = not training or draw.random() < 0.5
            for colour, thing, action in draw.sample(captions()[split], 1 if single else draw.randint(*self.shots)):
                shots.append(Event(action, self.length(draw), colour, thing, setting, scene, named))
        return shots

    def boundaries(self, edit: Edit) -> dict[str, tuple[float, ...]]:
        """Those of all edited videos, and the starts of scenes."""
        return {**super().boundaries(edit), "scenes": tuple(scene.start for scene in scenes_of(edit))}

    def frames(self, edit: Edit, footage: Clips | None) -> Iterator[np.ndarray]:
        """Symbols over the settings of their scenes."""
        draw = np.random.default_rng(edit.seed)
        takes: list[Drawn] = []
        for scene in scenes_of(edit):
            behind = ground(scene.setting, self.size, draw)
            takes += [event.drawn(behind, draw) for event in scene.events]
        return joined(takes, edit, self.rate, draw)

    def source(self) -> str:
        """Distinguishes films from other videos in the cache."""
        return " films 4"


class FilmsConfig(DatasetConfig):
    """Films as ``video``, with their captions as ``text`` and as speech (``audio``).

    Samples have two tiers of pieces: ``scenes``, and ``shots`` within them. A caption gives the setting of each scene
    and its shots: "night: red star rises, blue heart grows; sea: white plane moves left".
    """

    type: Literal["captioned_films"]
    parts: ClassVar[tuple[str, ...]] = ("video", "text", "audio")
    film: FootageConfig = FootageConfig()
    """The videos."""
    use: Annotated[tuple[Part, ...], Field(min_length=1)] = ("video", "text")
    """Modalities of the samples; speech is generated only if it is used."""
    some_words: Probability = 0.3
    """Probability that a training caption is reduced to some of its words, as queries often are."""
    all_settings: bool = False
    """Training captions name the setting of every scene, rather than of half of them; not for spoken ones."""
    voices: Annotated[tuple[str, ...], Field(min_length=1)] = ("en-us+m1", "en-us+f1", "en-us+m3", "en-gb-x-rp+f2")
    """Voices of eSpeak to train and validate on."""
    test_voices: Annotated[tuple[str, ...], Field(min_length=1)] = ("en-us+m2", "en-us+f3")
    """Voices to test on."""

    @model_validator(mode="after")
    def _settings_are_spoken(self) -> FilmsConfig:
        if self.all_settings and "audio" in self.use:
            raise ValueError("all_settings is not for use with audio, in which half of the settings are not spoken")
        return self

    def build(self, split: str) -> Films:
        """The films of a split. The first call generates those of all splits.

        Raises:
            ConfigError: the folder cannot be written, or speech is used and cannot be generated.
        """
        check_split(split)
        edits = self.film.edits(split)
        videos = self.film.build(split)
        sounds: Recordings | None = None
        if "audio" in self.use:
            folder = made_speech({name: self._lines(name) for name in SPLITS}, self.film.folder, "data.film.folder")
            sounds = Recordings(
                Home(folder), [recording(split, row, row["text"]) for row in spoken(folder, split)], None
            )
        scenes = [scenes_of(edit) for edit in edits]
        if self.all_settings:
            scenes = [[replace(scene, named=True) for scene in film] for film in scenes]
        return Films(self, scenes, videos, sounds, training=split == "train")

    def plain(self, split: str) -> Films:
        """The films of a split with complete captions."""
        return self.model_copy(update={"some_words": 0.0}).build(split)

    def _lines(self, split: str) -> list[Line]:
        draw = random.Random(f"{self.film.seed} speech {split}")
        voices = self.test_voices if split == "test" else self.voices
        return [
            Line(" ".join(_words(scenes_of(edit))), draw.choice(voices), draw.randint(130, 200), draw.randint(30, 70))
            for edit in self.film.edits(split)
        ]


@dataclass(frozen=True)
class FilmScene:
    """A scene of a film.

    Args:
        setting: of the scene.
        start: in seconds.
        events: its shots.
        starts: start times of the shots, and the end of the last one, in seconds.
        named: whether the caption names the setting.
    """

    setting: str
    start: float
    events: tuple[Event, ...]
    starts: tuple[float, ...]
    named: bool


class Films(Dataset):
    """Films with their captions.

    Args:
        config: of the dataset.
        scenes: of each film.
        videos: the films.
        sounds: spoken captions, if they are used.
        training: whether captions are reduced to some of their words at random.
    """

    classes = None

    def __init__(
        self,
        config: FilmsConfig,
        scenes: Sequence[Sequence[FilmScene]],
        videos: Dataset,
        sounds: Recordings | None,
        *,
        training: bool,
    ) -> None:
        self.config, self.scenes, self.videos, self.sounds, self.training = config, scenes, videos, sounds, training

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Sample:
        """The used modalities of a film, with the positions of its scenes and shots in each of them."""
        scenes, use, name = self.scenes[index], self.config.use, self.videos.name(index)
        where: dict[str, tuple[list[Edges], list[Edges]]] = {}
        value: dict[str, Any] = {}
        if "video" in use:
            value["video"] = self.videos[index].value
            shots = [edges for scene in scenes for edges in pairwise(scene.starts)]
            where["video"] = [(scene.start, scene.starts[-1]) for scene in scenes], shots
        if "text" in use:
            value["text"], wholes, parts = self._text(scenes)
            where["text"] = wholes, parts
        if self.sounds is not None:
            sound = self.sounds[index].value
            value["audio"], where["audio"] = sound, _spoken_times(scenes, sound, name)
        sentences = [sentence_of(scene) for scene in scenes]
        captions = [" ".join(event.words) for scene in scenes for event in scene.events]
        pieces = {
            tier: tuple(
                Piece(label, {part: tiers[number][position] for part, tiers in where.items()})
                for position, label in enumerate(labels)
            )
            for number, (tier, labels) in enumerate((("scenes", sentences), ("shots", captions)))
        }
        return Sample(value, "; ".join(sentences), name, pieces)

    def limit_towers(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        """Limits the videos, and the sounds if they are used."""
        limit_towers({"video": self.videos, **({} if self.sounds is None else {"audio": self.sounds})}, tokenizers)

    def name(self, index: int) -> str:
        """The name of the video."""
        return self.videos.name(index)

    def describe(self, index: int) -> Mapping[str, str]:
        """The complete caption of a film."""
        return {"caption": "; ".join(map(sentence_of, self.scenes[index]))}

    def _text(self, scenes: Sequence[FilmScene]) -> tuple[str, list[Edges], list[Edges]]:
        """A film's caption, and the positions of scenes and shots in it."""
        text, wholes, parts = "", list[Edges](), list[Edges]()
        for scene in scenes:
            text += "; " if text else ""
            begin = len(text)
            text += f"{scene.setting}: " if scene.named else ""
            for number, event in enumerate(scene.events):
                text += ", " if number else ""
                words: tuple[str, ...] = event.words
                if self.training and float(torch.rand(())) < self.config.some_words:
                    colour, thing, action = words
                    subsets = ((colour, thing), (thing, action), (thing,), (colour, thing))
                    words = subsets[int(torch.randint(4, ()))]
                caption = " ".join(words)
                parts.append((len(text), len(text) + len(caption)))
                text += caption
            wholes.append((begin, len(text)))
        return text, wholes, parts


Edges = tuple[float, float]


def sentence_of(scene: FilmScene) -> str:
    """The caption of a scene."""
    shots = ", ".join(" ".join(event.words) for event in scene.events)
    return f"{scene.setting}: {shots}" if scene.named else shots


def scenes_of(edit: Edit) -> list[FilmScene]:
    """The scenes of a film."""
    ends = (*edit.starts, edit.seconds)
    scenes, first = [], 0
    events = [event for event in edit.shots if isinstance(event, Event)]
    for _, scene_events in groupby(events, key=lambda event: event.scene):
        shots = tuple(scene_events)
        starts = ends[first : first + len(shots) + 1]
        scenes.append(FilmScene(shots[0].setting, starts[0], shots, starts, shots[0].named))
        first += len(shots)
    return scenes


@cache
def captions() -> Mapping[str, tuple[tuple[str, str, str], ...]]:
    """By split, combinations of colour, thing and action that no other split has."""
    by_split: dict[str, list[tuple[str, str, str]]] = {split: [] for split in SPLITS}
    for caption in product(COLOURS, THINGS, ACTIONS):
        by_split[hash_split(" ".join(caption), VAL, TEST)].append(caption)
    return {split: tuple(split_captions) for split, split_captions in by_split.items()}


def _words(scenes: Sequence[FilmScene]) -> list[str]:
    """The spoken words of a film."""
    return [word for scene in scenes for word in sentence_of(scene).replace(":", "").replace(",", "").split()]


def _spoken_times(scenes: Sequence[FilmScene], sound: Any, name: str) -> tuple[list[Edges], list[Edges]]:
    """The times at which scenes and shots are spoken of."""
    starts = (*sound.boundaries["words"], sound.seconds)
    timed = [
        (edges, label) for edges, label in zip(pairwise(starts), sound.labels["words"], strict=True) if label != SILENCE
    ]
    if [label for _, label in timed] != _words(scenes):
        raise BadSample(name, "is spoken of in other words than it has; remove the folder of made speech")
    wholes, parts, position = list[Edges](), list[Edges](), 0
    for scene in scenes:
        begin = timed[position][0][0]
        # The setting is one word, before the shots.
        position += scene.named
        for event in scene.events:
            last = position + len(" ".join(event.words).split()) - 1
            parts.append((timed[position][0][0], timed[last][0][1]))
            position = last + 1
        wholes.append((begin, timed[position - 1][0][1]))
    return wholes, parts
