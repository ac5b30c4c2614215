"""Runs of task generation by their commands: training, `generate`, `predict`, `eval --predictions` and the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from hrt_mm import load_config, load_run, train
from hrt_mm.cli.main import main
from hrt_mm.inference import TextPrediction

CONFIG = """
towers:
  source:
    modality: {{type: text}}
    model: {{levels: [{{name: bytes, dim: 16, depth: 1, heads: 2}}]}}
  text:
    modality: {{type: text}}
    model:
      levels:
        - name: bytes
          dim: 16
          depth: 1
          heads: 2
          window: 8
          window_type: sliding
          group: {{type: given, boundary: spaces}}
        - {{name: words, dim: 16, depth: 1, heads: 2}}
      causal: true
      top_down: true
task: {{type: generation, max_tokens: 12, decode_share: 1}}
data:
  type: joint_manifest
  file: {folder}/pairs.csv
  split_column: split
  label_column: null
  sources:
    source: {{type: text, column: document}}
    text: {{type: text, column: summary}}
train: {{steps: 3, batch_size: 4, eval_every: 3, save_every: 3, num_threads: 1, precision: fp32, tensorboard: false}}
run: {{dir: {folder}/run}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generation")
    with (folder / "pairs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["document", "summary", "split"])
        for split in ("train", "val", "test"):
            rows.writerows([f"the {split} of number {number}", f"no {number}", split] for number in range(6))
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
    train(load_config(folder / "config.yaml"))
    (folder / "document.txt").write_text("the number 3")
    return folder


def test_evaluation_scores_what_is_written(folder: Path) -> None:
    metrics = json.loads((folder / "run" / "summary.json").read_text())["metrics"]
    for name in ("bits_per_byte", "character_error_rate", "word_error_rate", "bleu", "rouge_l", "exact_match"):
        assert f"test/{name}" in metrics and f"best_val/{name}" not in metrics


def test_generate_writes_what_predict_writes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, document = str(folder / "run"), str(folder / "document.txt")
    assert main(["generate", run, "--file", document]) == 0
    written = capsys.readouterr().out.removesuffix("\n")
    (predicted,) = load_run(run).predict([{"source": "the number 3"}])
    assert isinstance(predicted, TextPrediction) and predicted.text == written and 0 < predicted.score <= 1
    out = folder / "written.jsonl"
    assert main(["predict", run, document, "--out", str(out)]) == 0
    row = json.loads(out.read_text())
    assert row["predicted"] == written and row["score"] == pytest.approx(predicted.score)
    assert main(["predict", run, document]) == 0
    assert written in capsys.readouterr().out


def test_generate_samples_and_searches(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, document = str(folder / "run"), str(folder / "document.txt")
    command = ["generate", run, "--file", document, "--prompt", "no ", "--max-tokens", "5"]
    assert main([*command, "--temperature", "1", "--num", "2"]) == 0
    first = capsys.readouterr().out
    assert first.count("no ") >= 2 and "--- 2" in first
    assert main([*command, "--temperature", "1", "--num", "2"]) == 0
    assert capsys.readouterr().out == first
    assert main([*command, "--beams", "3", "--length-penalty", "0"]) == 0
    assert capsys.readouterr().out.startswith("no ")
    # Greedy decoding is the same by both ways.
    assert main([*command]) == 0
    searched = capsys.readouterr().out
    assert main([*command, "--temperature", "0"]) == 0
    assert capsys.readouterr().out == searched


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "writes from text; give --file FILE"),
        (["--image", "a.png"], "--image: {run} writes from text; give --file FILE"),
        (["--file", "{folder}/none.txt"], "none.txt"),
        (["--file", "{folder}/document.txt", "--beams", "2", "--top-k", "3"], "are for a search"),
        (["--file", "{folder}/document.txt", "--num", "2"], "--num is for sampling"),
        (["--file", "{folder}/document.txt", "--beams", "0"], "beams 0 must be 1 or more"),
    ],
)
def test_mistakes_are_named(options: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(folder / "run")
    assert main(["generate", run, *(option.format(folder=folder) for option in options)]) == 2
    assert message.format(run=run) in capsys.readouterr().err


def test_a_split_is_written_with_its_texts(folder: Path) -> None:
    out = folder / "test.csv"
    assert main(["eval", str(folder / "run"), "--predictions", str(out), "--split", "test"]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["true"] for row in rows] == [f"no {number}" for number in range(6)]
    assert all(set(row) == {"sample", "true", "predicted", "score"} for row in rows)


def test_the_report_shows_texts_beside_those_of_the_data(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["diagnose", str(folder / "run")]) == 0
    report = (folder / "run" / "report" / "report.md").read_text()
    assert "## Written texts" in report and "| no 3 |" in report


def test_towers_start_from_runs_of_their_own(folder: Path) -> None:
    text = (folder / "config.yaml").read_text()
    again = folder / "again.yaml"
    again.write_text(text.replace(f"{folder}/run", f"{folder}/again"))
    starts = [f"train.init_from.{tower}={folder}/run" for tower in ("source", "text")]
    config = load_config(again, [*starts, "train.steps=1", "optim.lr=1e-9", "optim.freeze=[encoders.source]"])
    train(config)
    first, second = (load_run(folder / name).task.state_dict() for name in ("run", "again"))
    same = [name for name in first if torch.allclose(first[name], second[name], atol=1e-5)]
    assert {name for name in first if name.startswith(("encoders.", "heads."))} <= set(same)
