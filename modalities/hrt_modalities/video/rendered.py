"""Rendered video as a dataset: edited videos of shots in which something happens, with exact times of all borders."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from pydantic import model_validator

from ..common.media import Target
from .clips import Clips
from .edits import EditsConfig
from .rendering import ACTIONS, Edit, Shot, render


class RenderedConfig(EditsConfig):
    """Edited videos that the project renders: things that move, turn, grow or appear, with cuts, fades and wipes.

    Those of the test show parts of the photographs that training never shows.
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
        """One of the actions."""
        return Shot(draw.choice(ACTIONS), self.length(draw))

    def frames(self, edit: Edit, footage: Clips | None) -> Iterator[np.ndarray]:
        """Drawn over pieces of photographs."""
        return render(edit, self.rate, self.size)

    def target(self, edit: Edit) -> Target:
        """One action, or all in order."""
        actions = tuple(shot.action for shot in edit.shots)
        return actions[0] if self.label == "action" else actions
