"""The benchmark of shot changes, and that of outlines: both on a run that has hardly learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import outline, shots
from benchmarks.command import main
from benchmarks.results import Measured, Row, read
from benchmarks.shots import measured, side_of, videos
from hrt_mm.config import load_config
from hrt_mm.core.errors import ConfigError
from hrt_mm.train.loop import train
from hrt_modalities.video.readers import VideoFile
from tests.modalities.video.films import grid


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp("run")
    words = [f"run.dir={folder / 'run'}", f"data.folder={folder}", "data.train=2", "data.valid=1", "data.test=1"]
    words += ["train.steps=2", "train.batch_size=2", "train.eval_every=null", "train.test=false", "train.workers=0"]
    return train(load_config("video/quickstart", [*words, "train.tensorboard=false", "train.device=cpu"]))


def test_a_quick_run_measures_all_kinds(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    grid(tmp_path / "grid_s1", {"train": 2, "val": 1, "test": 2}, frames=75)
    path = tmp_path / "result.json"
    words = [str(run), "--quick", "--device", "cpu", "--threads", "1", "--json", str(path)]
    assert main(shots.arguments(), shots.run, shots.tables, words) == 0
    result = read(path)
    assert [row.sizes["kind"] for row in result.rows] == ["cuts", "fades", "wipes"]
    for row in result.rows:
        assert row.sizes["borders"] == 4 and set(row.contenders) == {shots.OURS, *shots.DETECTORS}
        for one in row.contenders.values():
            assert bool(one.note) != (one.scores.get("f1") is not None)
        assert row.contenders[shots.OURS].scores["seconds_a_minute"]
    assert "PySceneDetect" in shots.tables(result) and result.settings["side"] == 32


def test_finding_all_is_one_and_finding_none_is_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    clips = videos("fades", tmp_path, 2, quick=True)
    true = {clips.root / item.name: item.boundaries["fades"] for item in clips.items}
    assert all(len(starts) == 2 for starts in true.values())
    assert measured(clips, "fades", lambda path: true[path]).scores["f1"] == 1
    near = measured(clips, "fades", lambda path: [start + 0.3 for start in true[path]])
    assert near.scores["f1"] == 1 and near.scores["error_s"] == pytest.approx(0.3)
    assert measured(clips, "fades", lambda path: [start + 0.55 for start in true[path]]).scores["f1"] == 0
    half = measured(clips, "fades", lambda path: true[path][:1]).scores
    assert (half["precision"], half["recall"]) == (1, 0.5)

    def absent(path: Path) -> list[float]:
        raise ConfigError("is not here")

    assert measured(clips, "fades", absent).note == "is not here"


def test_a_detector_finds_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scenedetect")
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    scores = measured(videos("cuts", tmp_path, 2, quick=True), "cuts", shots.by_detector("content")).scores
    assert (scores["f1"] or 0) > 0.8


def test_frames_are_as_large_as_in_training() -> None:
    assert side_of(load_config("video/quickstart").data) == 32
    assert side_of(load_config("video/quickstart", ["data.side=24"]).data) == 24
    assert side_of(load_config("vision/digits").data) is None


def test_a_quick_run_outlines_two_lengths(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    words = [str(run), "--quick", "--device", "cpu", "--threads", "1", "--json", str(path)]
    assert main(outline.arguments(), outline.run, outline.tables, words) == 0
    rows = read(path).rows
    assert [(row.sizes["minutes"], row.sizes["borders"]) for row in rows] == [(0.1, 2), (0.2, 5)]
    for row in rows:
        own = row.contenders["outline"]
        assert own.bytes and own.bytes > 50 << 20 and own.seconds and own.scores["scenes"]
        assert row.ratios["seconds a minute"] == pytest.approx(own.seconds / float(row.sizes["minutes"]))


def test_packets_in_a_row_are_one_video(tmp_path: Path) -> None:
    assert outline.piece(tmp_path / "piece.mp4", 4.0) == 2
    outline.repeated(tmp_path / "piece.mp4", tmp_path / "long.mp4", 3)
    with VideoFile(tmp_path / "piece.mp4") as one, VideoFile(tmp_path / "long.mp4") as three:
        assert len(three.index) == 3 * len(one.index) == 150 and three.index.seconds == pytest.approx(12.0, abs=0.1)
        assert three.index.times_N.diff().max() == pytest.approx(0.08, abs=0.002)
        first, again = one.frames([0, 30]).pixels_N3HW, three.frames([100, 130]).pixels_N3HW
        assert (first.float() - again.float()).abs().max() <= 1


def test_growing_memory_is_told() -> None:
    def row(minutes: float, peak: int) -> Row:
        return Row(sizes={"minutes": minutes}, contenders={"outline": Measured(seconds=1.0, bytes=peak)}, ratios={})

    assert [bar.met for bar in outline._bars([row(2, 100), row(120, 109)])] == [True]
    assert [bar.met for bar in outline._bars([row(2, 100), row(120, 111)])] == [False]
