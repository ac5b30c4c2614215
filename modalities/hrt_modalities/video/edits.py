"""Edited video as a dataset: shots that are joined by cuts, fades and wipes, with exact times of all borders.

What is shown in the shots is up to the dataset; files are made on the first call and kept.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from hrt_mm.data.progress import tracked

from ..common.generated import generated
from ..common.media import Target
from ..common.splits import SPLITS, check_split
from .clips import Clip, Clips, ClipsConfig
from .handheld import HandheldShot
from .rendering import ACTIONS, Edit, Shot, render, write

_VERSION = 4
"""Must be raised when the same settings give other videos, so that no stale cache is read."""
Even = Annotated[int, Field(ge=16, multiple_of=2)]
Slow = Literal["fades", "wipes"]


class EditsConfig(ClipsConfig):
    """Settings of all datasets of edited videos.

    Videos have the boundary ``shots``, and by the transition before a shot ``cuts``, ``fades`` and ``wipes``.
    """

    size: tuple[Even, Even] = (48, 64)
    """Rows and columns."""
    rate: PositiveFloat = 12.5
    """Frames a second."""
    shots: tuple[PositiveInt, PositiveInt] = (3, 5)
    """Least and largest number of shots of a video; [1, 1] for single actions."""
    shot_s: tuple[PositiveFloat, PositiveFloat] = (1.6, 3.2)
    """Shortest and longest shot in seconds."""
    transition_s: tuple[PositiveFloat, PositiveFloat] = (0.4, 1.0)
    """Shortest and longest fade and wipe in seconds."""
    cut_share: Annotated[NonNegativeFloat, Field(le=1)] = 0.5
    """Fraction of the transitions that are cuts; the others are ``slow``."""
    slow: Annotated[tuple[Slow, ...], Field(min_length=1)] = ("fades", "wipes")
    """Kinds of the other transitions, equally frequent."""
    handheld: Annotated[NonNegativeFloat, Field(le=1)] = 0.0
    """Fraction of the rendered shots that look as if filmed by hand: with camera motion, zoom, changes of light,
    flicker, grain, graphics, and large things that pass in front. A model that sees none takes such changes in real
    films for borders."""
    seed: NonNegativeInt = 0
    """Seed of the content."""
    train: PositiveInt = 320
    """Videos to train on."""
    valid: PositiveInt = 32
    """Videos for validation."""
    test: PositiveInt = 64
    """Videos to test on."""
    crf: Annotated[int, Field(ge=0, le=51)] = 23
    """Constant rate factor of the encoder: 0 is lossless, 51 the lowest quality."""
    folder: Path | None = None
    """Cache folder; ``$XDG_CACHE_HOME/hrt_mm`` or ``~/.cache/hrt_mm`` when absent."""

    @model_validator(mode="after")
    def _possible(self) -> EditsConfig:
        for key in ("shots", "shot_s", "transition_s"):
            first, last = getattr(self, key)
            if first > last:
                raise ValueError(f"{key} goes from least to largest, got {first} to {last}")
        if self.transition_s[1] > self.shot_s[0] and self.shots[1] > 1:
            raise ValueError(
                f"transitions of {self.transition_s[1]:g} s do not fit shots of {self.shot_s[0]:g} s; two would overlap"
            )
        if self.val != ClipsConfig.model_fields["val"].default:
            raise ValueError("val has no effect: valid counts the videos for validation; drop val")
        return self

    def build(self, split: str) -> Clips:
        """The videos of a split. The first call renders those of all splits.

        Raises:
            ConfigError: the folder cannot be written, or there is no footage.
        """
        check_split(split)
        edits_by_split = {name: self.edits(name) for name in SPLITS}
        plan = f"{_VERSION} {self.size} {self.rate} {self.crf} {edits_by_split}{self.source()}"
        folder = generated(
            "video", plan, self.folder, lambda folder: self._render(edits_by_split, folder), "data.folder"
        )
        items = {
            name: [
                Clip(_name(name, number), self.target(edit), boundaries=self.boundaries(edit))
                for number, edit in enumerate(edits)
            ]
            for name, edits in edits_by_split.items()
        }
        return self.dataset(split, folder, items)

    def edits(self, split: str) -> list[Edit]:
        """The edits of a split."""
        draw = random.Random(f"{self.seed} {split}")
        count = {"train": self.train, "val": self.valid, "test": self.test}[split]
        footage = self.material(split)
        return [self._edit(draw, self.script(draw, footage, split), split == "test") for _ in range(count)]

    def script(self, draw: random.Random, footage: Clips | None, split: str) -> Sequence[Shot]:
        """Draws the shots of a video.

        Args:
            draw: the generator.
            footage: the split's :meth:`material`.
            split: of the video.
        """
        shots: list[Shot] = []
        for _ in range(draw.randint(*self.shots)):
            shots.append(self.shot(draw, footage, shots))
        return shots

    def boundaries(self, edit: Edit) -> dict[str, tuple[float, ...]]:
        """The boundaries of a video: by name, start times of groups in seconds."""
        return {"shots": edit.starts, **edit.by_kind()}

    def material(self, split: str) -> Clips | None:
        """The videos that shots are taken from, if there are any."""
        return None

    def shot(self, draw: random.Random, footage: Clips | None, before: Sequence[Shot]) -> Shot:
        """Draws the next shot.

        Args:
            draw: the generator.
            footage: the split's :meth:`material`.
            before: the shots before it.
        """
        raise NotImplementedError(type(self))

    def frames(self, edit: Edit, footage: Clips | None) -> Iterator[np.ndarray]:
        """The frames of a video, (H, W, 3) uint8."""
        raise NotImplementedError(type(self))

    def target(self, edit: Edit) -> Target:
        """The label of a video."""
        return None

    def source(self) -> str:
        """Further settings that the videos depend on, for the cache."""
        return ""

    def rendered(self, draw: random.Random, seconds: float) -> Shot:
        """Draws a rendered shot with a duration."""
        action = draw.choice(ACTIONS)
        return (HandheldShot if self.handheld and draw.random() < self.handheld else Shot)(action, seconds)

    def length(self, draw: random.Random) -> float:
        """Duration of a shot in seconds, in whole frames, so that cuts have exact times."""
        return max(1, round(draw.uniform(*self.shot_s) * self.rate)) / self.rate

    def _edit(self, draw: random.Random, shots: Sequence[Shot], held_out: bool) -> Edit:
        kinds = tuple(
            "cuts" if draw.random() < self.cut_share else draw.choice(self.slow) for _ in range(len(shots) - 1)
        )
        lengths = tuple(0.0 if kind == "cuts" else draw.uniform(*self.transition_s) for kind in kinds)
        return Edit(tuple(shots), kinds, lengths, draw.getrandbits(63), held_out)

    def _render(self, edits_by_split: dict[str, list[Edit]], folder: Path) -> None:
        options = {"preset": "veryfast", "crf": str(self.crf)}
        for split, edits in edits_by_split.items():
            (folder / split).mkdir()
            footage = self.material(split)
            for number, edit in enumerate(tracked(edits, len(edits), f"making videos, {split}")):
                write(folder / _name(split, number), self.frames(edit, footage), self.rate, self.size, options)
            about = [
                {"video": _name(split, number), "actions": [shot.action for shot in edit.shots], **edit.by_kind()}
                for number, edit in enumerate(edits)
            ]
            lines = "".join(json.dumps(row) + "\n" for row in about)
            (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


class RenderedConfig(EditsConfig):
    """Rendered videos of objects that move, rotate, grow or appear, with cuts, fades and wipes.

    The test split shows parts of the photographs that train does not.
    """

    type: Literal["rendered_video"]
    label: Literal["action", "actions"] = "actions"
    """The label: the action of a video of one shot, or those of all shots in order."""

    @model_validator(mode="after")
    def _one_action(self) -> RenderedConfig:
        if self.label == "action" and self.shots != (1, 1):
            raise ValueError(f"label: action is one action, but shots goes to {self.shots[1]}; set shots: [1, 1]")
        return self

    def shot(self, draw: random.Random, footage: Clips | None, before: Sequence[Shot]) -> Shot:
        """A random action."""
        return self.rendered(draw, self.length(draw))

    def frames(self, edit: Edit, footage: Clips | None) -> Iterator[np.ndarray]:
        """Rendered objects over pieces of photographs."""
        return render(edit, self.rate, self.size)

    def target(self, edit: Edit) -> Target:
        """One action, or all in order."""
        actions = tuple(shot.action for shot in edit.shots)
        return actions[0] if self.label == "action" else actions


def _name(split: str, number: int) -> str:
    return f"{split}/{number:05}.mp4"
