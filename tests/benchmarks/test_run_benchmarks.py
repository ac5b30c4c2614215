"""Benchmarks of whole training runs: what they train, for how long, and what they make of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import listops, peps, shakespeare
from benchmarks.command import main
from benchmarks.results import read
from benchmarks.runs import Finished, _parameters, flat, for_minutes
from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.data.dataset import Dataset
from hrt_mm.train.check import check
from hrt_modalities.corpora.listops import SHORT, evaluate, expressions
from hrt_modalities.corpora.listops_data import ListOps
from tests.modalities.corpora.test_peps import pep


def finished(accuracy: float, **changes: Any) -> Finished:
    metrics = {f"test/{name}": accuracy for name in ("accuracy", "macro_f1")}
    facts = {"parameters": 100, "steps": 9, "samples": 18, "seconds": 60.0, "precision": "fp32"}
    lines = [{"step": 4, "seconds": 20.0, "val/accuracy": 0.1}, {"step": 6, "val/accuracy": accuracy}]
    return Finished(facts | changes | {"metrics": metrics | {"val/bits_per_byte": accuracy}}, lines)


def test_a_curve_is_over_seconds_where_steps_are_logged_or_not() -> None:
    assert finished(0.5).curve("val/accuracy") == [[20.0, 4, 0.1], [30.0, 6, 0.5]]


def test_budgets_are_of_the_processor_on_a_cpu() -> None:
    assert {"train.clock=cpu", "train.num_threads=1", "train.time_limit=2"} <= set(for_minutes(2, torch.device("cpu")))
    assert "train.clock=wall" in for_minutes(2, torch.device("cuda"))


def test_the_flat_control_is_a_configuration_of_its_own() -> None:
    hierarchy = load_config("text/listops_short")
    config = flat(hierarchy)
    check(config)
    assert _parameters(config) == pytest.approx(_parameters(hierarchy), rel=0.01)
    assert [level.window for level in config.single.model.levels] == [None]


def test_guesses_of_listops_are_those_of_a_count() -> None:
    rows = list(expressions(200, 0, SHORT))
    data: dict[str, Dataset] = {split: ListOps(iter(rows), split) for split in ("train", "test")}
    known = listops.guesses(data)
    values = [value for _, value in rows]
    assert known["the commonest value"] == max(values.count(value) for value in set(values)) / 200
    assert listops._outermost_is("<5~9]3]", 3) and not listops._outermost_is("<5~1]3]", evaluate("<5~1]3]"))


def listops_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *words: str) -> tuple[Any, list[list[str]]]:
    """With runs that were made up: the hierarchy better by a tenth, and worse at the second seed where asked."""
    asked: list[list[str]] = []

    def trained(config: object, folder: Path, overrides: list[str]) -> Finished:
        asked.append(overrides)
        own = folder.name.startswith(("hierarchy", "pretrained"))
        return finished(0.5 if own else 0.4 + 0.09 * folder.name.endswith("1"))

    monkeypatch.setattr(listops, "trained", trained)
    monkeypatch.setattr(listops, "guesses", lambda data: {})
    monkeypatch.setattr("hrt_modalities.corpora.listops_data.ListOpsConfig.build", lambda self, split: None)
    options = listops.arguments().parse_args([*words])
    options.device, options.command = torch.device("cpu"), "python -m benchmarks.listops"
    return listops.run(options), asked


def test_the_least_lead_over_the_seeds_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = listops_run(monkeypatch, tmp_path, "--seeds", "2")
    assert [bar.met for bar in result.bars] == [False, True]
    assert result.bars[0].measured == "+1.0%"
    assert [f"train.seed={seed}" in words for words, seed in zip(asked, (0, 1, 0, 1, 0), strict=True)] == [True] * 5
    assert any("train.pretrain=" in word for word in asked[-1])
    assert "| flat | 2 | 44.5% | 40.0% | 49.0% | 100 |" in listops.tables(result)
    assert all(result.rows[0].contenders[name].seconds == 60.0 for name in ("hierarchy", "flat", "pretrained"))


def test_the_full_task_is_asked_for_its_published_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = listops_run(monkeypatch, tmp_path, "--full", "--seeds", "1", "--steps", "7")
    claims = {bar.claim: bar.met for bar in result.bars}
    assert claims["full ListOps, hierarchy: test accuracy over H-Transformer-1D's"]
    assert not claims["full ListOps, pretrained: test accuracy over S4's, the aim"]
    assert len(asked) == 2 and "train.steps=7" in asked[0] and "all its steps" in listops.tables(result)


def test_tinyshakespeare_is_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    (tmp_path / "text_small").mkdir()
    for part, size in (("train", 900), ("val", 100)):
        (tmp_path / "text_small" / f"tinyshakespeare_{part}.txt").write_text("First Citizen:\nBefore we go. " * size)
    path = tmp_path / "result.json"
    words = ["--quick", "--device", "cpu", "--json", str(path)]
    code = main(shakespeare.arguments(), shakespeare.run, shakespeare.tables, words, picture=shakespeare.picture)
    assert code == 0 and path.with_suffix(".png").is_file()
    result = read(path)
    nats = result.rows[-1].contenders["hierarchy"].scores["nats"]
    assert nats is not None and 0 < nats < math.log(257)
    assert "nats a character" in shakespeare.tables(result)


def test_peps_are_compared_on_both_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peps").mkdir()
    rows = [pep(n, split, status=("Final", "Rejected")[n % 2]) for split in ("train", "val", "test") for n in range(8)]
    (tmp_path / "peps" / "peps.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    asked: dict[str, Path] = {}

    def trained(config: Path, folder: Path, overrides: list[str]) -> Finished:
        asked[folder.name] = config
        check(load_config(config))
        return finished({"given": 0.6, "fixed": 0.5, "flat": 0.7}[folder.name.split("-")[0]])

    monkeypatch.setattr(peps, "trained", trained)
    path = tmp_path / "result.json"
    words = ["--device", "cpu", "--vocabulary", "300", "--json", str(path)]
    assert main(peps.arguments(), peps.run, peps.tables, words) == 0
    assert list(asked) == [f"{name}-{label}" for label in ("type", "status") for name in ("given", "fixed", "flat")]
    result = read(path)
    assert [bar.met for bar in result.bars] == [True, True, False] * 2
    # Of two classes of the same size, the commonest has an F1 of 2/3 and the other of 0.
    assert result.rows[1].sizes["majority macro_f1"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("benchmark", [shakespeare, peps])
def test_the_data_is_asked_for(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    with pytest.raises(UserError, match="HRT_MM_DATA is not set"):
        benchmark.run(benchmark.arguments().parse_args([]))
