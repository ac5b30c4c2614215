"""Footage that is cut anew shows what its tables say, split by split."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hrt_mm.config import load_config
from hrt_modalities.corpora.edited import Cutting, EditedConfig, FootageShot
from hrt_modalities.corpora.grid.video import GridVideoConfig
from hrt_modalities.video import Video
from tests.modalities.video.films import film

SIZE = (32, 40)


def config(root: Path, **options: Any) -> EditedConfig:
    given = {
        "type": "edited_video",
        "folder": root / "made",
        "train": 2,
        "valid": 1,
        "test": 2,
        "rate": 25,
        "size": SIZE,
    }
    given |= {
        "shot_s": [0.8, 1.2],
        "transition_s": [0.2, 0.4],
        "footage": {"type": "video_folder", "root": root / "raw"},
    }
    return EditedConfig.model_validate(given | options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Videos of two seconds; train, val and test are all different."""
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            film(tmp_path / "raw" / split / "any" / f"{name}.mp4", 50)
    return tmp_path


def test_edits_show_footage_of_their_split_alone(root: Path) -> None:
    data = config(root, rendered_share=0.5, shots=[4, 4])
    for split in ("train", "val", "test"):
        shots = [shot for edit in data.edits(split) for shot in edit.shots]
        pieces = [shot.action for shot in shots if isinstance(shot, FootageShot)]
        assert pieces and len(pieces) < len(shots)
        assert all(name.startswith(f"{split}/") for name in pieces)


def test_two_shots_of_footage_can_be_kept_apart(root: Path) -> None:
    near, far = (config(root, apart=apart, shots=[5, 5], train=8).edits("train") for apart in (False, True))
    kinds = [[isinstance(shot, FootageShot) for shot in edit.shots] for edit in far]
    assert all(not (one and two) for item in kinds for one, two in pairwise(item))
    assert sum(map(sum, kinds)) > 8
    assert all(isinstance(shot, FootageShot) for edit in near for shot in edit.shots)


@pytest.mark.parametrize(("kind", "share"), [("cuts", 1.0), ("fades", 0.0), ("wipes", 0.0)])
def test_borders_can_be_of_one_kind(root: Path, kind: str, share: float) -> None:
    slow = {} if kind == "cuts" else {"slow": [kind]}
    edits = config(root, cut_share=share, **slow).edits("train")
    assert {name for edit in edits for name in edit.transitions} == {kind}


def test_cuts_lie_where_the_table_says(root: Path) -> None:
    data = config(root, cut_share=1.0, shots=[3, 3], rendered_share=0.5, apart=True, crf=1)
    dataset = data.build("test")
    assert dataset.classes is None and len(dataset) == 2
    for index in range(2):
        sample = dataset[index]
        assert sample.label is None and sample.value.pixels_NCHW.shape[1:] == (3, *SIZE)
        change = sample.value.pixels_NCHW.float().diff(dim=0).abs().mean((1, 2, 3))
        largest = sorted((change.argsort(descending=True)[:2] + 1).tolist())
        assert [number / 25 for number in largest] == pytest.approx(list(sample.value.boundaries["cuts"]))
    other = config(root, cut_share=1.0, footage={"type": "video_folder", "root": root / "raw", "side": 24})
    assert other.build("test").root != dataset.root


def numbers(take: Cutting, times: list[float]) -> list[int]:
    return [round(float(take.at(time)[-4:, -4:].mean())) for time in times]


def test_a_piece_runs_at_its_own_speed_and_stands_still_beyond_its_video() -> None:
    pixels_N3HW = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, *SIZE)
    video = Video.of(pixels_N3HW, 25.0)
    first = Cutting(video, FootageShot("a", 0.8, 0, 0.0), SIZE, 0.2)
    assert numbers(first, [0.0, 0.04, 0.4, -0.2, 0.96]) == [5, 6, 15, 0, 29]
    last = Cutting(video, FootageShot("a", 0.8, 0, 1.0), SIZE, 0.2)
    assert numbers(last, [0.0, 0.8, 0.96]) == [25, 45, 49]
    long = Cutting(video, FootageShot("a", 5.0, 0, 0.7), SIZE, 0.2)
    assert numbers(long, [-0.3, 0.0, 1.0, 4.0]) == [0, 5, 30, 49]
    grey = Cutting(Video.of(pixels_N3HW[:3, :1], 25.0), FootageShot("a", 0.8, 0, 0.7), (16, 16), 0.2)
    assert grey.at(0.0).shape == (16, 16, 3) and grey.at(0.0).dtype == np.float32


def test_labels_are_not_carried_over() -> None:
    with pytest.raises(ValidationError, match="label"):
        EditedConfig.model_validate(
            {"type": "edited_video", "label": "actions", "footage": {"type": "video_folder", "root": "x"}}
        )


def test_the_configuration_learns_borders_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    result = load_config("video/shots")
    assert isinstance(result.data, EditedConfig) and isinstance(result.data.footage, GridVideoConfig)
    assert result.data.footage.root == tmp_path / "grid_s1"
    assert result.data.side == 32 and not getattr(result.task, "labels", True)
