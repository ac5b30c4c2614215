"""Rendered video as a dataset: edited videos of shots in which something happens, with exact times of all borders."""

from __future__ import annotations

import json
import os
import random
import shutil
from hashlib import blake2b
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from hrt_mm.errors import ConfigError

from ..splits import SPLITS, check_split
from .clips import Clip, Clips, ClipsConfig
from .rendering import ACTIONS, TRANSITIONS, Edit, Shot, render, write

_VERSION = 1
"""Rises when the same settings give other videos, so that no stale cache is read."""
Even = Annotated[int, Field(ge=16, multiple_of=2)]


class RenderedConfig(ClipsConfig):
    """Edited videos that the project renders: things that move, turn, grow or appear, with cuts, fades and wipes.

    Videos carry the boundaries ``shots``, and by how a shot begins ``cuts``, ``fades`` and ``wipes``. Those of the test
    show parts of the photographs that training never shows.
    """

    type: Literal["rendered_video"]
    size: tuple[Even, Even] = (48, 64)
    """Rows and columns."""
    rate: PositiveFloat = 12.5
    """Frames a second."""
    shots: tuple[PositiveInt, PositiveInt] = (3, 5)
    """Fewest and most shots of a video; one and one for single actions."""
    shot_s: tuple[PositiveFloat, PositiveFloat] = (1.6, 3.2)
    """Shortest and longest shot in seconds."""
    transition_s: tuple[PositiveFloat, PositiveFloat] = (0.4, 1.0)
    """Shortest and longest fade and wipe in seconds."""
    cut_share: Annotated[NonNegativeFloat, Field(le=1)] = 0.5
    """Part of the transitions that are cuts; the others are fades and wipes, as many of each."""
    label: Literal["action", "actions"] = "actions"
    """What is told: the action of a video of one shot, or those of all shots in order."""
    seed: NonNegativeInt = 0
    """Draws what is shown."""
    train: PositiveInt = 320
    """Videos to train on."""
    valid: PositiveInt = 32
    """Videos for validation."""
    test: PositiveInt = 64
    """Videos to test on."""
    crf: Annotated[int, Field(ge=0, le=51)] = 23
    """How much the encoder may lose: 0 for nothing, 51 for most."""
    folder: Path | None = None
    """Where videos are kept once rendered; ``$XDG_CACHE_HOME/hrt_mm`` or ``~/.cache/hrt_mm`` when absent."""

    @model_validator(mode="after")
    def _possible(self) -> RenderedConfig:
        for key in ("shots", "shot_s", "transition_s"):
            first, last = getattr(self, key)
            if first > last:
                raise ValueError(f"{key} goes from least to largest, got {first} to {last}")
        if self.transition_s[1] > self.shot_s[0] and self.shots[1] > 1:
            raise ValueError(
                f"transitions of {self.transition_s[1]:g} s do not fit shots of {self.shot_s[0]:g} s; two would overlap"
            )
        if self.label == "action" and self.shots != (1, 1):
            raise ValueError(f"label: action is one action, but shots goes to {self.shots[1]}; set shots: [1, 1]")
        if self.val != ClipsConfig.model_fields["val"].default:
            raise ValueError("val has no effect: valid counts the videos for validation; drop val")
        return self

    def build(self, split: str) -> Clips:
        """The videos of a split. Renders those of all splits on the first call.

        Raises:
            ConfigError: the folder cannot be written.
        """
        check_split(split)
        folder = self._made()
        found = {name: [self._item(name, *pair) for pair in enumerate(self.edits(name))] for name in SPLITS}
        return self.dataset(split, folder, found)

    def edits(self, split: str) -> list[Edit]:
        """What is shown in a split."""
        draw = random.Random(f"{self.seed} {split}")
        count = {"train": self.train, "val": self.valid, "test": self.test}[split]
        return [self._edit(draw, split == "test") for _ in range(count)]

    def _edit(self, draw: random.Random, held_out: bool) -> Edit:
        # Borders lie on frames, so that a cut has an exact time.
        shots = tuple(
            Shot(draw.choice(ACTIONS), max(1, round(draw.uniform(*self.shot_s) * self.rate)) / self.rate)
            for _ in range(draw.randint(*self.shots))
        )
        kinds = tuple(
            "cuts" if draw.random() < self.cut_share else draw.choice(TRANSITIONS[1:]) for _ in range(len(shots) - 1)
        )
        lengths = tuple(0.0 if kind == "cuts" else draw.uniform(*self.transition_s) for kind in kinds)
        return Edit(shots, kinds, lengths, draw.getrandbits(63), held_out)

    def _item(self, split: str, number: int, edit: Edit) -> Clip:
        actions = tuple(shot.action for shot in edit.shots)
        target = actions[0] if self.label == "action" else actions
        return Clip(_name(split, number), target, boundaries={"shots": edit.starts, **edit.by_kind()})

    def _made(self) -> Path:
        shown = {split: self.edits(split) for split in SPLITS}
        plan = f"{_VERSION} {self.size} {self.rate} {self.crf} {shown}"
        home = self.folder or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hrt_mm"
        folder = home / f"video-{blake2b(plan.encode(), digest_size=8).hexdigest()}"
        if folder.is_dir():
            return folder
        try:
            home.mkdir(parents=True, exist_ok=True)
            made = Path(mkdtemp(prefix=".video-", dir=home))
            try:
                self._render(shown, made)
                # Another process may have been faster; its folder is the same.
                if not folder.is_dir():
                    made.rename(folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        except OSError as error:
            if not folder.is_dir():
                raise ConfigError(f"{folder} cannot be written: {error.strerror}; set data.folder") from error
        return folder

    def _render(self, shown: dict[str, list[Edit]], folder: Path) -> None:
        options = {"preset": "veryfast", "crf": str(self.crf)}
        for split, edits in shown.items():
            (folder / split).mkdir()
            for number, edit in enumerate(edits):
                frames = render(edit, self.rate, self.size)
                write(folder / _name(split, number), frames, self.rate, self.size, options)
            about = [
                {"video": _name(split, number), "actions": [shot.action for shot in edit.shots], **edit.by_kind()}
                for number, edit in enumerate(edits)
            ]
            lines = "".join(json.dumps(row) + "\n" for row in about)
            (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def _name(split: str, number: int) -> str:
    return f"{split}/{number:05}.mp4"
