"""The outline of a file equals that of the whole video in memory, window by window; and the command that prints it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from hrt_mm.cli.main import main
from hrt_mm.config import load_config
from hrt_mm.core.errors import ConfigError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.tokens import Tokens
from hrt_mm.data.sample import Sample
from hrt_mm.data.time_span import TimeSpan
from hrt_mm.data.tokenizer import SINGLE
from hrt_mm.inference import SpanPrediction
from hrt_mm.inference.interpreting import Interpreter
from hrt_mm.inference.reading import TowerReader
from hrt_mm.tasks import Batch, Segmentation, SegmentationConfig
from hrt_modalities.outline.commands import clock, line
from hrt_modalities.outline.outline import FileOutline, Scene
from hrt_modalities.video import Video, VideoConfig, VideoModality, VideoTokenizer
from hrt_modalities.video.readers import VideoFile
from hrt_modalities.video.rendering import Edit, Shot, render, write
from tests.modalities.video.films import damaged

ACTIONS = ("left", "grow", "up", "turn_left", "vanish")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds, cut every two."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    edit = Edit(tuple(Shot(action, 2.0) for action in ACTIONS), ("cuts",) * 4, (0.0,) * 4, 3)
    write(path, render(edit, 12.5, (48, 64)), 12.5, (48, 64), {"preset": "veryfast"})
    return path


def built(film: Path) -> tuple[Segmentation, VideoTokenizer]:
    """A model that sees a few frames around each, with heads whose opinions change within a film."""
    frames = {"type": "given", "boundary": "frames", "typical": [1, 3, 4]}
    levels = [
        {"name": "tubes", "dim": 24, "depth": 1, "heads": 2, "window": [1, 4, 4], "group": frames},
        {"name": "frames", "dim": 24, "depth": 1, "heads": 2, "window": 2, "window_type": "sliding"},
    ]
    model = HierarchyConfig.model_validate({"levels": levels})
    tokenizer = VideoConfig(type="video", tube=1, rate=12.5).build(model).with_boundaries({"frames"})
    config = SegmentationConfig.model_validate(
        {"type": "segmentation", "unit": "frames", "borders": {"cuts": {}, "fades": {}}}
    )
    torch.manual_seed(4)
    task = config.build(model, tokenizer, ("one", "two", "three")).eval()
    assert task.label_head is not None
    with torch.no_grad():
        units_UD, _ = task.steps(tokens_of(film, tokenizer))
        for head in (task.border_head, task.label_head):
            weight_CD = torch.randn_like(head.weight) / units_UD.std(0)
            head.weight.copy_(weight_CD)
            head.bias.copy_(-weight_CD @ units_UD.mean(0))
    return task, tokenizer


def tokens_of(path: Path, tokenizer: VideoTokenizer) -> Tokens:
    with VideoFile(path) as file:
        return tokenizer([Video.of(file.frames(range(len(file.index))).pixels_N3HW, 12.5)])


def whole(path: Path, task: Segmentation, tokenizer: VideoTokenizer) -> list[tuple[Any, ...]]:
    result = task.segments(tokens_of(path, tokenizer))[0]
    return [(round(part.first / 12.5, 3), round(part.end / 12.5, 3), part.border, part.label) for part in result]


def test_predictions_have_the_scenes_of_the_whole(film: Path) -> None:
    task, tokenizer = built(film)
    reader = TowerReader(SINGLE, VideoModality, tokenizer, load_config("video/quickstart").data)
    with VideoFile(film) as file:
        value = Video.of(file.frames(range(len(file.index))).pixels_N3HW, 12.5)
    interpret = Interpreter(task, {SINGLE: reader}, "segmentation", film.parent)
    (prediction,) = interpret(Batch.of(tokenizer([value])), [Sample(value, None, "film")])
    assert isinstance(prediction, SpanPrediction) and prediction.unit == "seconds"
    spans = [(round(span.start, 3), round(span.end, 3), span.border, span.label) for span in prediction.spans]
    assert spans == whole(film, task, tokenizer)


@pytest.mark.parametrize("window", [0.4, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("batch", [1, 4])
def test_windows_give_the_scenes_of_the_whole(film: Path, window: float, batch: int) -> None:
    task, tokenizer = built(film)
    expected = whole(film, task, tokenizer)
    assert 3 <= len(expected) < 100
    with VideoFile(film) as file:
        scenes = list(FileOutline(task, tokenizer, window=window, margin=0.4, shortest=0, batch=batch).scenes(file))
    assert [(round(one.start, 3), round(one.end, 3), one.border, one.label) for one in scenes] == expected
    assert all(first.end == second.start for first, second in pairwise(scenes))
    for scene in scenes:
        assert scene.clips[0].start == scene.start and scene.clips[-1].end == pytest.approx(scene.end)
        assert all(first.label != second.label for first, second in pairwise(scene.clips))


def test_borders_that_follow_at_once_are_left_out(film: Path) -> None:
    task, tokenizer = built(film)
    starts = [start for start, *_ in whole(film, task, tokenizer)][1:]
    least = min(second - first for first, second in pairwise(starts)) + 0.08
    with VideoFile(film) as file:
        scenes = list(FileOutline(task, tokenizer, shortest=least).scenes(file))
    remaining = [round(scene.start, 3) for scene in scenes][1:]
    assert remaining[0] == starts[0] and set(remaining) < set(starts)
    assert all(second - first >= least - 0.001 for first, second in pairwise(remaining))
    assert all(first.end == second.start for first, second in pairwise(scenes))


def test_borders_that_training_was_taught_by_need_not_be_there(film: Path) -> None:
    task, tokenizer = built(film)
    expected = whole(film, task, tokenizer)
    tokenizer = tokenizer.with_boundaries({"frames", "cuts", "fades"})
    with VideoFile(film) as file:
        scenes = list(FileOutline(task, tokenizer, shortest=0).scenes(file))
    assert len(scenes) == len(expected)
    assert tokenizer.requested_boundaries == {"frames", "cuts", "fades"}


def test_no_more_than_a_few_windows_are_held(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, tokenizer = built(film)
    asked: list[int] = []
    steady = VideoFile.steady

    def counted(self: VideoFile, numbers: Any) -> torch.Tensor:
        asked.append(len(numbers))
        return steady(self, numbers)

    monkeypatch.setattr(VideoFile, "steady", counted)
    with VideoFile(film) as file:
        scenes = FileOutline(task, tokenizer, window=1.0, margin=0.4, batch=2).scenes(file)
        assert list(scenes)
        assert max(asked) <= 12 + 2 * 5 < len(file.index)


def test_broken_frames_are_held_over(film: Path, tmp_path: Path) -> None:
    task, tokenizer = built(film)
    with VideoFile(damaged(tmp_path / "a.mp4", 12)) as file:
        scenes = list(FileOutline(task, tokenizer).scenes(file))
        assert scenes[-1].end == pytest.approx(1.6)
        same = file.steady([0, 13, 14])
    assert same.shape == (3, 3, 48, 64)


def test_other_tasks_are_refused(film: Path) -> None:
    task, tokenizer = built(film)
    with pytest.raises(ConfigError, match="needs a run of modality video with task segmentation"):
        FileOutline(torch.nn.Linear(2, 2), tokenizer)
    steps = SegmentationConfig.model_validate({"type": "segmentation", "borders": {"cuts": {}}})
    other = steps.build(task.encoder.hierarchy.config, tokenizer, ACTIONS)
    with pytest.raises(ConfigError, match=r"needs task.unit: frames, and the run has None"):
        FileOutline(other, tokenizer)
    levels = [
        {"name": "tubes", "dim": 24, "depth": 1, "heads": 2, "group": {"type": "given", "boundary": "shots"}},
        {"name": "shots", "dim": 24, "depth": 1, "heads": 2},
    ]
    shots = task.config.build(HierarchyConfig.model_validate({"levels": levels}), tokenizer, ACTIONS)
    with pytest.raises(ConfigError, match="the run's model is given it: groups by shots"):
        FileOutline(shots, tokenizer)


def test_scenes_in_words() -> None:
    clips = (TimeSpan(0.0, 1.0, "left", 0.9), TimeSpan(1.0, 3725.5, "up", 0.8))
    text = line(Scene(0.0, 3725.5, "left", 0.75, "cuts", 0.99, clips), 7)
    assert text.splitlines()[0].split() == ["7", "0:00:00.00", "-", "1:02:05.50", "left", "75%", "cut", "99%"]
    assert "0:00:01.00 - 1:02:05.50  up" in text and clock(59.999) == "0:01:00.00"


def test_the_command_finds_cuts_by_a_detector(film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("scenedetect")
    assert main(["outline", str(film), "--detector", "content", "--json", "--picture", str(tmp_path / "o.png")]) == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    assert [row["start"] for row in rows] == pytest.approx([0, 2, 4, 6, 8]) and rows[-1]["end"] == pytest.approx(10)
    assert (tmp_path / "o.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "give one of --run RUN and --detector NAME"), (["--detector", "content", "--clip", "0"], "--clip must be")],
)
def test_wrong_options(film: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outline", str(film), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_no_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.mp4").write_text("dear diary")
    assert main(["outline", str(tmp_path / "text.mp4"), "--detector", "content"]) == 2
    assert "no video that can be read" in capsys.readouterr().err


def test_the_quickstart_fits_the_command() -> None:
    config = load_config("video/quickstart")
    assert isinstance(config.task, SegmentationConfig) and config.task.unit == "frames"
