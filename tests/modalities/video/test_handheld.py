"""Shots that look as if filmed by hand: much changes in them, and no border is there."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from hrt_modalities.video.edits import RenderedConfig
from hrt_modalities.video.handheld import Handheld, HandheldShot
from hrt_modalities.video.rendering import Drawn, Edit, Shot, render

SIZE, RATE = (32, 48), 12.5


def edge_changes(shot: Shot, seed: int) -> np.ndarray:
    """Mean change from frame to frame at the picture's edges, where the object is not."""
    pictures = np.stack(list(render(Edit((shot,), (), (), seed), RATE, SIZE))).astype(np.float32)
    assert pictures.shape == (25, *SIZE, 3)
    return np.abs(np.diff(pictures, axis=0))[:, [0, -1]].mean((1, 2, 3))


def test_the_background_of_handheld_shots_moves() -> None:
    changes = np.stack([edge_changes(HandheldShot("turn_left", 2.0), seed) for seed in range(8)])
    still = np.stack([edge_changes(Shot("turn_left", 2.0), seed) for seed in range(8)])
    assert still.max() < 0.5
    assert np.median(changes) > 1 and (changes.max(1) > 5).any()


def test_a_handheld_shot_is_the_same_for_one_seed() -> None:
    first, again, other = (
        np.stack(list(render(Edit((HandheldShot("left", 0.8),), (), (), seed), RATE, SIZE))) for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_pan_turns_around_at_the_edge_of_the_scenery() -> None:
    take = HandheldShot("left", 2.0).take(SIZE, False, np.random.default_rng(0))
    assert isinstance(take, Handheld)
    take.pan = np.array([90.0, -70.0])
    # Black would be outside of the scenery.
    take.scenery.paste((200, 200, 200), (0, 0, *take.scenery.size))
    for time in np.linspace(-0.5, 2.5, 13):
        assert take._scenery_at(float(time)).min() > 190


def test_the_share_of_handheld_shots_is_as_configured() -> None:
    def kinds(share: float) -> list[bool]:
        config = RenderedConfig.model_validate({"type": "rendered_video", "handheld": share})
        return [isinstance(shot, HandheldShot) for edit in config.edits("train") for shot in edit.shots]

    half = kinds(0.5)
    assert not any(kinds(0)) and all(kinds(1)) and 0.4 < sum(half) / len(half) < 0.6
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        RenderedConfig.model_validate({"type": "rendered_video", "handheld": 1.5})


def test_shots_are_plain_unless_configured() -> None:
    plain = RenderedConfig.model_validate({"type": "rendered_video"}).edits("val")
    take = plain[0].shots[0].take(SIZE, False, np.random.default_rng(0))
    assert type(take) is Drawn and "Handheld" not in repr(plain)
