"""Edited videos from footage: shots of other videos and rendered ones, with exact times of all boundaries.

Shapes: N frames, H rows, W columns.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from einops import rearrange
from pydantic import Field, NonNegativeFloat

from ..video.clips import Clips
from ..video.edits import EditsConfig
from ..video.folders import VideoFolderConfig, VideoManifestConfig
from ..video.rendering import Edit, Shot, Take, joined
from ..video.video import Video
from ..vision.images import resized
from .actions import KineticsConfig, Ucf101Config
from .grid.video import GridVideoConfig

Footage = Annotated[
    VideoFolderConfig | VideoManifestConfig | GridVideoConfig | KineticsConfig | Ucf101Config,
    Field(discriminator="type"),
]


@dataclass(frozen=True)
class FootageShot(Shot):
    """A shot of footage; its ``action`` is the video's name.

    Args:
        item: number of the video.
        place: of the shot among all its possible positions in the video, from 0 to 1.
    """

    item: int
    place: float


class EditedConfig(EditsConfig):
    """Edited videos generated from other videos, to learn boundaries without annotating any.

    Each split shows videos of that split of the footage. Labels are dropped, so ``task.labels`` must be false.
    """

    type: Literal["edited_video"]
    footage: Footage
    """A dataset of videos for the shots. Each is read whole for a shot, so they should be short, or parts."""
    rendered_share: Annotated[NonNegativeFloat, Field(le=1)] = 0.0
    """Fraction of the shots that are rendered, as in ``rendered_video``."""
    apart: bool = False
    """Always put a rendered shot between two of footage, for footage that looks the same everywhere."""

    def material(self, split: str) -> Clips:
        """The footage of a split."""
        footage = self.footage.build(split)
        assert isinstance(footage, Clips)
        return footage

    def source(self) -> str:
        """The footage's settings."""
        return f" {self.footage.model_dump_json()}"

    def shot(self, draw: random.Random, footage: Clips | None, before: Sequence[Shot]) -> Shot:
        """A piece of a video, or something rendered."""
        assert footage is not None
        seconds = self.length(draw)
        follows = self.apart and bool(before) and isinstance(before[-1], FootageShot)
        if draw.random() < self.rendered_share or follows:
            return self.rendered(draw, seconds)
        item = draw.randrange(len(footage))
        return FootageShot(footage.name(item), seconds, item, draw.random())

    def frames(self, edit: Edit, footage: Clips | None) -> Iterator[np.ndarray]:
        """Pieces of footage, cropped and resized, among rendered shots.

        Raises:
            BadSample: a video of the footage cannot be read.
        """
        assert footage is not None
        draw = np.random.default_rng(edit.seed)
        takes: list[Take] = []
        for shot in edit.shots:
            if isinstance(shot, FootageShot):
                video = footage.read(footage.items[shot.item])
                takes.append(Cutting(video, shot, self.size, self.transition_s[1] / 2))
            else:
                takes.append(shot.take(self.size, edit.held_out, draw))
        return joined(takes, edit, self.rate, draw)


class Cutting:
    """A shot of footage as a take. If the video is shorter than the shot, its first and last frames are repeated.

    Args:
        video: the whole video.
        shot: the part of it.
        size: rows and columns.
        margin: seconds before and after the shot, for transitions.
    """

    def __init__(self, video: Video, shot: FootageShot, size: tuple[int, int], margin: float) -> None:
        room = max(0.0, video.seconds - shot.seconds - 2 * margin)
        self.begin = shot.place * room + margin
        times_N = video.times_N.numpy()
        first = max(0, int(np.searchsorted(times_N, self.begin - margin, side="right")) - 1)
        last = max(first + 1, int(np.searchsorted(times_N, self.begin + shot.seconds + margin)))
        pixels_N3HW = resized(video.pixels_NCHW[first:last].float().expand(-1, 3, -1, -1), size, "crop")
        self.frames_NHW3 = rearrange(pixels_N3HW, "n c h w -> n h w c").numpy()
        self.times_N = times_N[first:last]

    def at(self, time: float) -> np.ndarray:
        """(H, W, 3) float: the picture at a time from the start of the shot."""
        # Tolerates rounding, because times are sums.
        index = int(np.searchsorted(self.times_N, self.begin + time + 1e-4, side="right")) - 1
        frame: np.ndarray = self.frames_NHW3[min(max(0, index), len(self.frames_NHW3) - 1)]
        return frame
