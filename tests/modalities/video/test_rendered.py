"""Rendered videos show what their tables say, are the same each time, and come back from real files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hrt_mm.core.errors import ConfigError
from hrt_modalities.video.edits import RenderedConfig
from hrt_modalities.video.rendering import ACTIONS, Edit, Shot, render, write

SIZE, RATE = (48, 64), 12.5


def config(folder: Path, **options: Any) -> RenderedConfig:
    given = {"type": "rendered_video", "folder": folder, "train": 3, "valid": 1, "test": 2, **options}
    return RenderedConfig.model_validate(given)


def frames(edit: Edit) -> np.ndarray:
    return np.stack(list(render(edit, RATE, SIZE))).astype(np.float32)


def test_a_cut_is_where_it_says() -> None:
    edit = Edit((Shot("left", 1.6), Shot("grow", 1.6)), ("cuts",), (0.0,), 5)
    change = np.abs(np.diff(frames(edit), axis=0)).mean((1, 2, 3))
    assert len(change) == 39 and int(change.argmax()) + 1 == round(1.6 * RATE) == round(edit.starts[1] * RATE)
    assert change.max() > 5 * np.sort(change)[-2]


@pytest.mark.parametrize("kind", ["fades", "wipes"])
def test_slow_transitions_are_slow_and_centred(kind: str) -> None:
    edit = Edit((Shot("left", 1.6), Shot("grow", 1.6)), (kind,), (0.8,), 5)
    change = np.abs(np.diff(frames(edit), axis=0)).mean((1, 2, 3))
    middle = round(1.6 * RATE)
    inside = np.zeros(39, bool)
    inside[middle - 5 : middle + 5] = True
    assert change[inside].mean() > 2 * change[~inside].mean()
    assert edit.by_kind()[kind] == (1.6,) and edit.by_kind()["cuts"] == ()


@pytest.mark.parametrize(("action", "axis", "sign"), [("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)])
def test_things_move_where_the_action_says(action: str, axis: int, sign: int) -> None:
    picture = frames(Edit((Shot(action, 2.0),), (), (), 11))
    still = np.median(picture, 0)
    positions = []
    for frame in (picture[2], picture[-3]):
        weight = np.abs(frame - still).sum(-1)
        weight[weight < 30] = 0
        positions.append((weight.sum(1 - axis) * np.arange(SIZE[axis])).sum() / weight.sum())
    assert sign * (positions[1] - positions[0]) > 4


def test_things_turn_against_the_clock_to_the_left() -> None:
    from PIL import Image

    first, last = frames(Edit((Shot("turn_left", 2.0),), (), (), 2))[[0, 3]]
    apart = {
        sign: np.abs(np.asarray(Image.fromarray(first.astype(np.uint8)).rotate(sign * 15)) - last)[16:32, 24:40].mean()
        for sign in (1, -1)
    }
    assert apart[1] < apart[-1]


@pytest.mark.parametrize("action", ["appear", "vanish", "grow", "shrink"])
def test_a_thing_covers_more_or_less(action: str) -> None:
    picture = frames(Edit((Shot(action, 2.0),), (), (), 3))
    opposite = {"appear": "vanish", "vanish": "appear", "grow": "shrink", "shrink": "grow"}[action]
    backwards = frames(Edit((Shot(opposite, 2.0),), (), (), 3))
    # Opposite actions are each other played backwards, but for half a frame.
    assert np.abs(picture[2:-2] - backwards[::-1][2:-2]).mean() < np.abs(picture[2:-2] - backwards[2:-2]).mean()


@pytest.mark.parametrize("seed", range(4))
def test_a_pale_rim_tells_the_thing_from_what_is_behind_it(seed: int) -> None:
    """Without it a thing that vanishes is its background appearing."""

    def pale(picture: np.ndarray) -> int:
        return int((picture.astype(int).min(-1) > 200).sum())

    first, *_, last = frames(Edit((Shot("vanish", 2.0),), (), (), seed))
    assert pale(first) > pale(last) + 15


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    edit = Edit((Shot("up", 0.8), Shot("turn_right", 0.8)), ("wipes",), (0.4,), 9, held_out=True)
    random = np.random.default_rng(0)

    def frames_amid_garbage() -> Iterator[np.ndarray]:
        # Memory that is freed here is what the encoder gets.
        for frame in render(edit, RATE, SIZE):
            sizes = random.integers(1, random.choice([30_000, 3_000_000]), 60)
            garbage = [np.full(size, random.integers(256), np.uint8) for size in sizes]
            del garbage[::2]
            yield frame

    written = set()
    for _ in range(8):
        write(tmp_path / "a.mp4", frames_amid_garbage(), RATE, SIZE, {"preset": "veryfast"})
        written.add((tmp_path / "a.mp4").read_bytes())
    assert len(written) == 1


def test_videos_come_back_from_their_files(tmp_path: Path) -> None:
    data = config(tmp_path, crf=10)
    dataset = data.build("test")
    edit = data.edits("test")[1]
    sample = dataset[1]
    assert sample.label == [shot.action for shot in edit.shots] and set(sample.label) <= set(ACTIONS)
    assert sample.value.boundaries["shots"] == edit.starts
    shown = torch.from_numpy(frames(edit)).permute(0, 3, 1, 2)
    assert len(sample.value) == len(shown) and sample.value.seconds == pytest.approx(edit.seconds, abs=0.01)
    assert (sample.value.pixels_NCHW.float() - shown).abs().mean() < 6
    rows = [json.loads(line) for line in (dataset.root / "test.jsonl").read_text().splitlines()]
    assert rows[1]["actions"] == sample.label and rows[1]["cuts"] == list(edit.by_kind()["cuts"])


def test_files_are_rendered_once_and_other_settings_apart(tmp_path: Path) -> None:
    first = config(tmp_path).build("train")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.mp4")}
    again = config(tmp_path).build("train")
    assert again.root == first.root and before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.mp4")}
    assert len(before) == 6 and config(tmp_path, seed=1).build("train").root != first.root
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_the_test_shows_other_parts_of_the_photographs(tmp_path: Path) -> None:
    assert all(edit.held_out for edit in config(tmp_path).edits("test"))
    assert not any(edit.held_out for split in ("train", "val") for edit in config(tmp_path).edits(split))


def test_settings_that_disagree(tmp_path: Path) -> None:
    for options, message in (
        ({"shots": [4, 3]}, "shots goes from least to largest"),
        ({"transition_s": [0.4, 2.0]}, "two would overlap"),
        ({"label": "action"}, "label: action is one action"),
        ({"val": 0.3}, "valid counts the videos for validation"),
    ):
        with pytest.raises(ValidationError, match=message):
            config(tmp_path, **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written: .*; set data.folder"):
        config(tmp_path / "file").build("train")
