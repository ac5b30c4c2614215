"""The benchmark of readers of video files and of waiting for data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import video_decode
from benchmarks.checks import CheckFailed
from benchmarks.command import main
from benchmarks.results import Measured, Row, read
from benchmarks.video_decode import Source, check_equal
from hrt_modalities.video.readers import VideoFile
from hrt_modalities.video.readers.base import ReaderError
from hrt_modalities.video.readers.pyav import PyavReader
from tests.modalities.video.films import film, grid


def test_a_quick_run_reads_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    grid(tmp_path / "grid_s1", {"train": 4, "val": 1, "test": 3})
    path = tmp_path / "result.json"
    words = ["--quick", "--device", "cpu", "--threads", "1", "--json", str(path), "train.batch_size=2"]
    assert main(video_decode.arguments(), video_decode.run, video_decode.tables, words) == 0
    result = read(path)
    decoding, training = result.rows[:-2], result.rows[-2:]
    assert [(row.sizes["source"], row.sizes["access"]) for row in decoding] == [
        (source, access) for source in ("rendered", "GRID, mouth", "GRID, face") for access in video_decode.ACCESS
    ]
    assert [row.sizes["frames"] for row in decoding] == [50, 60, 100, 60, 100, 60]
    for row in decoding:
        for item in (row.contenders["decord"], row.contenders["pyav"]):
            frames = float(row.sizes["frames"])
            assert item.seconds and item.scores["frames_per_second"] == pytest.approx(frames / item.seconds)
        other = row.contenders["torchcodec"]
        assert bool(other.seconds) != bool(other.note)
    assert all(value < video_decode.BOUND for value in result.checks.values()) and len(result.checks) >= 3
    assert [row.sizes["workers"] for row in training] == [0, 1]
    assert all(0 < (row.contenders["step"].scores["data_wait"] or 0) < 1 for row in training)
    assert "waiting for data" in video_decode.tables(result)


def test_a_reader_that_cannot_serve_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> None:
        raise ReaderError("is on holiday")

    monkeypatch.setattr(PyavReader, "__init__", refused)
    source = Source.of("one", [film(tmp_path / "a.mp4", 10)])
    row = video_decode.decoded(source, "sequential", 0.0)
    assert row.contenders["pyav"].note == "is on holiday" and row.contenders["pyav"].seconds is None
    assert row.contenders["decord"].seconds
    assert "is on holiday" in video_decode._cells(row, ["pyav", "decord"])


def test_readers_that_disagree_are_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source.of("one", [film(tmp_path / "a.mp4", 10)])
    assert list(check_equal(source, ["pyav", "decord"])) == ["one, decord against pyav"]
    stack = VideoFile._stack

    def darker(self: VideoFile, *args: object) -> torch.Tensor:
        result = stack(self, *args)  # type: ignore[arg-type]
        return result // 2 if self.reader == "decord" else result

    monkeypatch.setattr(VideoFile, "_stack", darker)
    with pytest.raises(CheckFailed, match="frames of decord and pyav: outputs differ"):
        check_equal(source, ["pyav", "decord"])


@pytest.mark.parametrize(("share", "met"), [(0.05, True), (0.051, False)])
def test_waiting_is_asked_to_be_short(share: float, met: bool) -> None:
    measured = Measured(seconds=0.1, scores={"data_wait": share})
    row = Row(sizes={"config": "video/grid_lips", "workers": 1}, contenders={"step": measured}, ratios={})
    assert video_decode._bar(row).met == met


def test_without_data_only_what_is_rendered_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    path = tmp_path / "result.json"
    words = ["--quick", "--device", "cpu", "--steps", "0", "--json", str(path)]
    assert main(video_decode.arguments(), video_decode.run, video_decode.tables, words) == 0
    assert {row.sizes["source"] for row in read(path).rows} == {"rendered"}
    assert "HRT_MM_DATA is not set" in capsys.readouterr().err
    assert main(video_decode.arguments(), video_decode.run, video_decode.tables, words[:3]) == 1
    assert "HRT_MM_DATA" in capsys.readouterr().err
