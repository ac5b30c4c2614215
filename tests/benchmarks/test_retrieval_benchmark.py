from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import retrieval
from benchmarks.command import main
from benchmarks.results import Measured, Row, read
from benchmarks.runs import kept
from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.metrics.retrieval import rank_scores
from hrt_mm.train.check import check

QUICK = ["--quick", "--device", "cpu", "--threads", "1"]


def test_a_quick_run_trains_both_measures_both_ways_and_keeps(tmp_path: Path) -> None:
    path, runs = tmp_path / "result.json", tmp_path / "runs"
    argv = [*QUICK, "--runs", str(runs), "--json", str(path)]
    assert main(retrieval.arguments(), retrieval.run, retrieval.tables, argv) == 0
    (row,) = read(path).rows
    assert set(row.contenders) == {"hierarchy", "flat"}
    for known in row.contenders.values():
        for way in ("text_to_image", "image_to_text"):
            assert known.scores[f"{way}/queries"] == known.scores[f"{way}/answers"]
            assert known.scores[f"{way}/chance_R@1"] == pytest.approx(1 / (known.scores[f"{way}/answers"] or 0))
    assert "| hierarchy | text_to_image |" in retrieval.tables(read(path))
    # What is there is taken, and what is of another length is not.
    summary = runs / "glyphs-flat" / "summary.json"
    before = summary.stat().st_mtime_ns
    assert main(retrieval.arguments(), retrieval.run, retrieval.tables, argv) == 0
    assert summary.stat().st_mtime_ns == before
    assert main(retrieval.arguments(), retrieval.run, retrieval.tables, [*argv, "--first"]) == 0
    assert set(read(path).rows[0].contenders) == {"hierarchy"}
    with pytest.raises(UserError, match="another configuration"):
        kept(runs / "glyphs-flat.yaml", runs / "glyphs-flat", ["train.time_limit=9"])


@pytest.mark.parametrize("task", retrieval.TASKS)
def test_every_contender_is_a_configuration_that_can_be_built(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRT_MM_DATA", "/data")
    result = retrieval.contenders(task)
    for config in result.values():
        check(config)
    if task == "grid":
        assert list(result) == ["triples", "audio-video", "audio-text", "video-text"]
        pair = result["audio-text"]
        assert pair.towers is not None and list(pair.towers) == ["audio", "text"]
        assert [item.levels for item in pair.task.also] == [{"audio": "words", "text": "words"}]  # type: ignore[attr-defined]
        assert pair.data.use == ("audio", "text")  # type: ignore[attr-defined]


def test_near_duplicates_are_left_out_of_the_answers() -> None:
    sentences = ["bin blue at f two now", "bin blue at f six soon", "lay red by g one again"]
    near = retrieval.near_duplicates(sentences)
    assert near.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    scores = torch.tensor([[0.5, 0.9, 0.1], [0.2, 0.9, 0.1], [0.9, 0.2, 0.1]])
    result = retrieval._ways("sentences: a_to_b", scores, torch.eye(3, dtype=torch.bool), near)
    assert result["sentences: a_to_b/R@1"] == pytest.approx(1 / 3)
    assert result["sentences: a_to_b, apart/R@1"] == pytest.approx(2 / 3)
    assert rank_scores(scores, torch.zeros(3, 3).bool()).answers == 3


def row(task: str, **ways: float) -> Row:
    contender = Measured(seconds=1.0, scores={f"{way}/R@1": value for way, value in ways.items()})
    return Row(sizes={"task": task}, contenders={"own": contender}, ratios={})


def test_the_worse_way_counts() -> None:
    rows = [
        row("glyphs", text_to_image=0.1),
        row("grid", audio_to_text=0.99, text_to_audio=0.94),
        row("emoji", noto_to_emojitwo=0.8),
    ]
    assert [(bar.measured, bar.met) for bar in retrieval.bars(rows)] == [("94.0%", False), ("80.0%", True)]


def test_the_data_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = retrieval.arguments().parse_args(["--only", "glyphs", "grid"])
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    with pytest.raises(UserError, match="HRT_MM_DATA is not set; name the folder that holds grid_s1"):
        retrieval.run(options)
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    with pytest.raises(UserError, match="has no grid_s1"):
        retrieval.run(options)


def test_every_level_of_a_grid_model_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On made-up sentences in place of GRID's, with a model that was not trained."""
    from hrt_mm.data.dataset import Dataset
    from hrt_mm.data.sample import Sample
    from hrt_mm.train.build import build_task, build_tokenizers
    from hrt_modalities.audio import Audio

    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    config = retrieval.pair_of(load_config("retrieval/grid_soft"), "audio", "text")
    tokenizers = build_tokenizers(config)
    torch.manual_seed(0)

    class Sentences(Dataset):
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Sample:
            sentence = f"bin blue at {'abcdefghij'[index % 10]} {('one', 'two')[index // 10]} now"
            return Sample({"audio": Audio(torch.randn(8000), 16000), "text": sentence}, sentence, str(index))

    run: Any = type("Run", (), {"config": config, "tokenizers": tokenizers})
    run.task = build_task(config, tokenizers, None).eval()
    monkeypatch.setattr(retrieval, "build_dataset", lambda config, split: Sentences())
    result = retrieval.by_level(run, "sentences", near=True)
    ways = {name.rpartition("/")[0] for name in result}
    assert ways == {
        f"{level}: {way}{kind}"
        for level in ("sentences", "words", "together")
        for way in ("audio_to_text", "text_to_audio")
        for kind in ("", ", apart")
    }
    # Each shares five words with ten others: these are left out, and ranks can only become better.
    assert result["words: audio_to_text, apart/median_rank"] < result["words: audio_to_text/median_rank"]
    json.dumps(result, allow_nan=False)
