from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import fusion
from benchmarks.command import main
from benchmarks.results import read
from benchmarks.runs import Finished, kept_or_trained
from hrt_mm.config import RunConfig
from hrt_mm.core.errors import UserError
from hrt_mm.train.check import check


def made_up(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """In place of training and evaluation: babble hurts sound, and one head fuses badly at -10 dB of it."""
    trained: list[str] = []
    asked: list[tuple[str, list[str]]] = []

    def train(config: Path, folder: Path, overrides: list[str]) -> Finished:
        trained.append(folder.name)
        facts: dict[str, Any] = {"parameters": 9, "steps": 8, "samples": 16, "seconds": 60.0, "peak_memory_bytes": 1}
        return Finished(facts | {"metrics": {}}, [])

    def evaluate(folder: Path, split: str, overrides: list[str]) -> dict[str, float]:
        asked.append((folder.name, overrides))
        words = dict(word.split("=", 1) for word in overrides)
        noise = -float(words.get("data.noise_db", 0)) / 20
        sound = 0.9 - noise - 0.1 * (words.get("data.noise") == "babble")
        result = {"[]": 0.95 - 0.2 * noise, "[video]": sound, "[audio]": 0.6}[words["task.without"]]
        if folder.name == "gated" and words["task.without"] == "[]" and noise == 0.5 and "babble" in str(words):
            result = 0.55
        return {"test/accuracy": result}

    monkeypatch.setenv("HRT_MM_DATA", "/data")
    monkeypatch.setattr("benchmarks.runs.trained", train)
    monkeypatch.setattr(fusion, "evaluate_run", evaluate)
    return trained, asked


def test_each_head_is_held_against_each_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, asked = made_up(monkeypatch)
    path = tmp_path / "result.json"
    argv = ["--device", "cpu", "--threads", "1", "--json", str(path)]
    code = main(fusion.arguments(), fusion.run, fusion.tables, argv, picture=fusion.picture)
    assert code == 0 and path.with_suffix(".png").stat().st_size > 10_000
    result = read(path)
    assert trained == ["audio-alone", "video-alone", *fusion.HEADS]
    # Seven conditions from both and from sound, and one from video, which noise does not change.
    assert len([name for name, _ in asked if name == "joint"]) == 15
    assert ("joint", ["train.device=cpu", "task.without=[]", "data.noise=babble", "data.noise_db=-10"]) in asked
    met = {bar.claim: (bar.measured, bar.met) for bar in result.bars}
    assert len(met) == 18
    assert met["joint: fused over video alone, at its least of 7 points"] == ("+25.0% (white -10 dB)", True)
    assert met["gated: fused over video alone, at its least of 7 points"] == ("-5.0% (babble -10 dB)", False)
    assert met["gated: fused over audio alone, at its least of 6 points"] == ("+5.0% (white 0 dB)", True)
    over_singles = "fused over the better model trained alone, at its least of 7 points"
    assert met[f"joint: {over_singles}"] == ("+5.0% (clean)", True)
    assert met[f"gated: {over_singles}"] == ("-5.0% (babble -10 dB)", False)
    assert "| trained alone | 12 | audio | 90% |" in fusion.tables(result)
    # The steps and the minutes of experts are those of all three runs.
    assert "| experts | 25.2 | fused | 95% |" in fusion.tables(result)
    (experts,) = [row for row in result.rows if row.sizes["head"] == "experts"]
    assert experts.contenders["fused"].scores["steps"] == 24


def test_what_was_measured_of_a_run_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, asked = made_up(monkeypatch)
    (tmp_path / "joint").mkdir()
    (tmp_path / "joint" / "summary.json").write_text("{}")
    first = fusion.accuracies(tmp_path / "joint", ["audio"], "cpu", clean=True)
    assert len(asked) == 1 and first == {"clean": 0.6}
    assert fusion.accuracies(tmp_path / "joint", ["audio"], "cpu", clean=True) == first and len(asked) == 1
    assert len(fusion.accuracies(tmp_path / "joint", ["audio"], "cpu")) == 7 and len(asked) == 7
    # A run that is newer than its figures is another one.
    os.utime(tmp_path / "joint" / "summary.json", (2e9, 2e9))
    fusion.accuracies(tmp_path / "joint", ["audio"], "cpu", clean=True)
    assert len(asked) == 8


def test_a_quick_run_trains_one_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, asked = made_up(monkeypatch)
    options = ["--quick", "--device", "cpu", "--json", str(tmp_path / "a.json")]
    assert main(fusion.arguments(), fusion.run, fusion.tables, options) == 0
    assert trained == ["concat"] and len(asked) == 3


def test_runs_may_have_steps_instead_of_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made_up(monkeypatch)
    overrides: dict[str, list[str]] = {}

    def recorded(config: RunConfig, folder: Path, words: list[str]) -> Finished:
        overrides[folder.name] = words
        return kept_or_trained(config, folder, words)

    monkeypatch.setattr(fusion, "kept_or_trained", recorded)
    path = tmp_path / "result.json"
    argv = ["--device", "cpu", "--heads", "experts", "--steps", "video-alone=858,experts=100", "--json", str(path)]
    assert main(fusion.arguments(), fusion.run, fusion.tables, argv) == 0
    assert {"train.time_limit=null", "train.steps=858"} <= set(overrides["video-alone"])
    assert "train.steps=100" in overrides["experts"] and "train.time_limit=12.0" in overrides["audio-alone"]
    assert read(path).settings["steps"] == {"video-alone": 858, "experts": 100}
    with pytest.raises(SystemExit):
        fusion.arguments().parse_args(["--steps", "gate=1"])
    assert "there is no run 'gate'; there are audio-alone, bottleneck" in capsys.readouterr().err


@pytest.mark.parametrize("head", fusion.HEADS)
def test_every_head_can_be_built(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRT_MM_DATA", "/data")
    config = fusion.contender(head, ["video"])
    check(config)
    assert config.task.fusion.type == head and config.task.without == ("video",)  # type: ignore[attr-defined]
    assert config.data.train_noise == ("white", "babble")  # type: ignore[attr-defined]


def test_the_data_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    options = fusion.arguments().parse_args([])
    options.device = torch.device("cpu")
    with pytest.raises(UserError, match="HRT_MM_DATA is not set"):
        fusion.run(options)
