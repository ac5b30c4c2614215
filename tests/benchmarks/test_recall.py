"""The contenders of associative recall, the tables, and a run of both parts at tiny sizes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from benchmarks.command import main
from benchmarks.recall import _contenders, arguments, configuration, run, tables
from benchmarks.results import read
from hrt_mm.core.initial_weights import weights_replaced
from hrt_mm.train.build import build_task, build_tokenizers

WORDS = ["data.values=8", "model.levels.0.dim=32", "model.levels.1.dim=32"]


def size(contender: str, first: str) -> int:
    config = configuration(contender, WORDS, first)
    with torch.device("meta"), weights_replaced():
        task = build_task(config, build_tokenizers(config), tuple("01234567"))
    return sum(parameter.numel() for parameter in task.parameters())


def test_controls_have_the_parameters_of_the_first_hierarchy() -> None:
    hierarchy = size("mean/4", "mean/4")
    assert size("flat", "mean/4") == size("window", "mean/4") == pytest.approx(hierarchy, rel=0.02)
    assert size("mean/4 + down", "mean/4") > hierarchy and size("conv/8", "mean/4") > hierarchy


def test_contenders_differ_in_what_their_names_say() -> None:
    model = configuration("haar/8 + down", WORDS, "mean/4").single.model
    assert (model.levels[0].pool, model.levels[0].group.stride) == ("haar", 8)  # type: ignore[union-attr]
    assert model.cross_scale.down and not configuration("haar/8", WORDS, "mean/4").single.model.cross_scale.down
    flat, window = (configuration(name, WORDS, "mean/4").single.model.levels for name in ("flat", "window"))
    assert flat[0].window is None and (window[0].window, window[0].window_type) == (16, "sliding")
    assert flat[0].model_copy(update={"window": 16, "window_type": "sliding"}) == window[0]


def test_unknown_contenders_are_named() -> None:
    assert _contenders("flat, mean/4 + down") == ["flat", "mean/4 + down"]
    for wrong in ("mean", "mean/1", "sum/4", "flat + down"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"is not one of flat, window, nor a pooling"):
            _contenders(wrong)


QUICK = [
    "--quick",
    "--device",
    "cpu",
    "--threads",
    "1",
    "--no-memory",
    "--pairs",
    "4",
    "--symbols",
    "8",
    "--width",
    "32",
]


def test_quick_trains_once_and_takes_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    words = [*QUICK, "--parts", "recall", "--contenders", "mean/4", "--lengths", "24", "--seeds", "1"]
    words += ["--runs", str(tmp_path / "runs"), "--json", str(path)]
    assert main(arguments(), run, tables, words) == 0
    (row,) = read(path).rows
    scores = row.contenders["mean/4"].scores
    assert scores["accuracy"] is not None and 0 <= scores["accuracy"] <= 1 and (scores["steps"] or 0) >= 1
    text = capsys.readouterr().out
    assert "| contender | accuracy | steps | ms a step | parameters |" in text
    assert "24 tokens with 4 pairs (guessing among a sequence's values: about 25.0)" in text
    # Finished runs are read, not made again.
    assert main(arguments(), run, tables, words) == 0
    assert read(path).rows == [row]


def test_quick_costs_are_beside_those_of_flat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    words = [*QUICK, "--parts", "costs", "--contenders", "flat,mean/4", "--cost-lengths", "32,64", "--json", str(path)]
    assert main(arguments(), run, tables, words) == 0
    for row in read(path).rows:
        flat, mean = (row.contenders[name].seconds or 0 for name in ("flat", "mean/4"))
        assert row.ratios == {"flat/mean/4 seconds": pytest.approx(flat / mean)}
    assert "| contender | 32 tokens, ms | 64 tokens, ms |" in capsys.readouterr().out
