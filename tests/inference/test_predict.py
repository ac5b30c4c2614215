"""Predicting as a job: formats, tables, lines, unusable samples, resuming, and agreement with evaluation."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hrt_mm import load_config, load_run, train
from hrt_mm.cli.main import main
from hrt_mm.core.errors import BadSample, UserError
from hrt_mm.inference import Prediction
from hrt_mm.inference.predict import prediction_job
from hrt_mm.inference.prediction_rows import Journal
from hrt_mm.inference.sources import inputs_in

MODEL = """
modality: {type: vision, channels: 1, patch: 4}
model:
  levels:
    - {name: patches, dim: 16, heads: 2, depth: 1, group: {type: fixed, stride: 2}}
    - {name: image, dim: 16, heads: 2, depth: 1}
task: {type: classification}
data: {type: image_folder, root: ROOT}
train: {steps: 3, batch_size: 4, eval_every: null, test: false, num_threads: 1}
optim: {lr: 1.0e-2, warmup_steps: 0}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three kinds in two splits, and a run trained on them."""
    folder = tmp_path_factory.mktemp("predict")
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 5)):
        for label, offset in (("dark", 0), ("grey", 80), ("light", 160)):
            (folder / "pictures" / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(offset, offset + 90, (16, 16 + 4 * (number % 2)), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "pictures" / split / label / f"{number}.png")
    config = folder / "config.yaml"
    config.write_text(MODEL.replace("ROOT", str(folder / "pictures")))
    train(load_config(str(config), [f"run.dir={folder / 'run'}"]))
    return folder


@pytest.fixture
def pictures(folder: Path) -> list[Path]:
    return sorted((folder / "pictures" / "test").rglob("*.png"))


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of predictions."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = parquet.read_table(path).to_pylist()
    else:
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
    return [row | {"score": float(row["score"]), "scores": json.loads(row["scores"])} for row in rows]


def test_predictions_are_those_of_the_evaluation_to_the_last_digit(
    folder: Path, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated = tmp_path / "evaluated.jsonl"
    assert main(["eval", str(folder / "run"), "--json", "--predictions", str(evaluated)]) == 0
    metrics = json.loads(capsys.readouterr().out)
    rows = read(evaluated)
    assert [Path(row["sample"]).parts[-2] for row in rows] == [row["true"] for row in rows]
    hits = sum(row["true"] == row["predicted"] for row in rows)
    assert len(rows) == 15 and metrics["test/accuracy"] == pytest.approx(hits / 15)
    assert all(list(row) == ["sample", "true", "predicted", "score", "scores"] for row in rows)
    for out in (tmp_path / "p.csv", tmp_path / "p.jsonl", tmp_path / "p.parquet"):
        assert main(["predict", str(folder / "run"), str(folder / "pictures" / "test"), "--out", str(out)]) == 0
        predicted = read(out)
        assert [row["sample"] for row in predicted] == list(map(str, pictures))
        for one, other in zip(predicted, rows, strict=True):
            assert one["scores"] == other["scores"] and list(one["scores"]) == list(other["scores"])
            assert (one["predicted"], one["score"]) == (other["predicted"], other["score"])
    values = [prediction.row()["scores"] for prediction in load_run(folder / "run").predict(list(map(str, pictures)))]
    assert values == [row["scores"] for row in rows]


def test_a_job_that_is_killed_continues_without_lost_or_doubled_rows(folder: Path, tmp_path: Path) -> None:
    options = ["predict", str(folder / "run"), str(folder / "pictures" / "test"), "--batch-size", "2", "--out"]
    assert main([*options, str(tmp_path / "whole.csv")]) == 0
    out = tmp_path / "killed.csv"
    child = os.fork()
    if not child:
        add, batches = Journal.add, iter(range(3))

        def killed(self: Journal, *rows: Any) -> None:
            if next(batches, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            add(self, *rows)

        Journal.add = killed  # type: ignore[method-assign, assignment]
        main([*options, str(out)])
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not out.exists()
    journal = tmp_path / ".killed.csv.partial" / "rows.jsonl"
    assert journal.read_bytes().count(b"\n") == 4
    with journal.open("ab") as file:
        file.write(b'{"rows": [{"sample": "torn')
    assert main([*options, str(out)]) == 0
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_bytes_in_parquet(
    folder: Path,
    pictures: list[Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    cells = [path.read_bytes() for path in pictures]
    cells.insert(2, b"no picture")
    table = tmp_path / "table.parquet"
    parquet.write_table(arrow.table({"image": cells, "number": list(range(len(cells)))}), table, row_group_size=4)
    assert main(["predict", str(folder / "run"), *map(str, pictures), "--out", str(tmp_path / "files.csv")]) == 0
    options = ["predict", str(folder / "run"), str(table), "--column", "image", "--batch-size", "4", "--out"]
    assert main([*options, str(tmp_path / "whole.csv"), "--workers", "2"]) == 0
    assert "left out: table.parquet:3: not an image" in caplog.text
    with monkeypatch.context() as patch:
        add, batches = Journal.add, iter(range(2))

        def interrupted(self: Journal, *rows: Any) -> None:
            if next(batches, None) is None:
                raise KeyboardInterrupt
            add(self, *rows)

        patch.setattr(Journal, "add", interrupted)
        assert main([*options, str(tmp_path / "out.csv")]) == 130
    assert main([*options, str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    predictions, expected = read(tmp_path / "out.csv"), read(tmp_path / "files.csv")
    assert [row["sample"] for row in predictions] == [f"table.parquet:{n}" for n in range(1, len(cells) + 1) if n != 3]
    assert [row["number"] for row in predictions] == [str(n) for n in range(len(cells)) if n != 2]
    assert [row["predicted"] for row in predictions] == [row["predicted"] for row in expected]
    assert [row["score"] for row in predictions] == pytest.approx([row["score"] for row in expected], abs=1e-6)


def test_workers_write_the_same_file(folder: Path, tmp_path: Path) -> None:
    options = ["predict", str(folder / "run"), str(folder / "pictures" / "test"), "--out"]
    assert main([*options, str(tmp_path / "one.csv")]) == 0
    assert main([*options, str(tmp_path / "two.csv"), "--workers", "2"]) == 0
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_output_that_is_not_finite_is_no_prediction(folder: Path, pictures: list[Path], tmp_path: Path) -> None:
    run = load_run(folder / "run")
    with torch.no_grad():
        for parameter in run.task.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(BadSample, match="the model's output for it is not finite"):
        run.predict([pictures[0]])
    job = prediction_job(run, inputs_in(pictures[:3], run.readers))
    with pytest.raises(UserError, match="none of 3 samples can be predicted"):
        job.write(tmp_path / "p.csv")
    assert not list(tmp_path.iterdir())


def test_a_journal_of_other_inputs_or_options_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "p.csv"
    command = [
        "predict",
        str(folder / "run"),
        str(folder / "pictures" / "test"),
        "--out",
        str(out),
        "--batch-size",
        "5",
    ]
    with monkeypatch.context() as patch:
        batches = iter(range(1))

        def interrupted(self: Journal, *rows: Any) -> None:
            if next(batches, None) is None:
                raise KeyboardInterrupt
            add(self, *rows)

        add = Journal.add
        patch.setattr(Journal, "add", interrupted)
        assert main(command) == 130
    assert main([*command, "--top", "2"]) == 2
    assert "begun with other top; repeat that command, or start again with --restart" in capsys.readouterr().err
    assert main([*command, "--top", "2", "--restart"]) == 0
    assert len(read(out)) == 15 and all(len(row["scores"]) == 2 for row in read(out))
    assert main(command) == 2
    assert "exists already; choose another file, or remove it" in capsys.readouterr().err


def test_unusable_files_are_skipped_counted_and_named(
    folder: Path, pictures: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    good = mixed / "good.png"
    good.write_bytes(pictures[0].read_bytes())
    (mixed / "broken.png").write_bytes(pictures[1].read_bytes()[:60])
    (mixed / "text.png").write_text("no picture")
    (mixed / "sound.wav").write_bytes(b"RIFF")
    out = tmp_path / "p.csv"
    with caplog.at_level(logging.WARNING):
        assert main(["predict", str(folder / "run"), str(mixed), "--out", str(out)]) == 0
    assert [row["sample"] for row in read(out)] == [str(good)]
    text = caplog.text
    assert "broken.png" in text and "text.png" in text and "sound.wav" in text
    assert "left out 2 of 3 samples" in text


def test_a_job_without_a_usable_sample_fails(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_text("no picture")
    out = tmp_path / "p.csv"
    assert main(["predict", str(folder / "run"), str(tmp_path / "a.png"), "--out", str(out)]) == 2
    assert "none of 1 samples can be predicted" in capsys.readouterr().err
    assert main(["predict", str(folder / "run"), str(tmp_path / "a.png")]) == 2
    assert not out.exists()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_keep_their_columns_and_names(folder: Path, pictures: list[Path], tmp_path: Path, suffix: str) -> None:
    rows = [{"key": f"k{number}", "file": str(path), "score": str(number)} for number, path in enumerate(pictures[:3])]
    table = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), table)
    out = tmp_path / "out.jsonl"
    options = ["--column", "file", "--id-column", "key", "--root", str(folder), "--top", "1"]
    assert main(["predict", str(folder / "run"), str(table), *options, "--out", str(out)]) == 0
    predictions = read(out)
    assert [row["sample"] for row in predictions] == ["k0", "k1", "k2"]
    assert [row["input.score"] for row in predictions] == ["0", "1", "2"]
    assert all(isinstance(row["score"], float) and len(row["scores"]) == 1 for row in predictions)


def test_lines_of_standard_input_are_paths(
    folder: Path,
    pictures: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{pictures[0]}\n\nmissing.png\n{pictures[0]}\n"))
    with caplog.at_level(logging.WARNING):
        assert main(["predict", str(folder / "run"), "-"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith(f"{pictures[0]}: ") and "%" in line for line in lines)
    assert "left out: missing.png: no such file" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a.png"], "a.png does not exist"),
        (["{test}", "--column", "path"], "--column is for tables, and none is given"),
        (["{test}", "--tower", "image"], "--tower is for runs with several towers"),
        (["{test}", "--format", "xml"], "the format 'xml' is unknown; it is one of text, csv, jsonl, parquet"),
        (["{test}", "--format", "parquet"], "parquet cannot be printed; name a file with --out"),
        (["{test}", "--out", "p.pdf"], "p.pdf must end in .csv, .jsonl, .parquet or .txt"),
        (["{test}", "--out", "none/p.csv"], "there is no folder none"),
        (["{test}", "--top", "0"], "--top 0 is not possible"),
        (["{test}", "--batch-size", "0"], "a batch of 0 samples is not possible"),
        (["{test}", "--workers", "-1"], "-1 workers are not possible"),
        (["{test}", "--device", "tpu"], "device 'tpu' is unknown"),
        (["{test}", "--restart"], "--restart is for a file"),
        (["-", "{test}"], "- reads standard input, and files are given"),
    ],
)
def test_mistakes_are_explained(
    folder: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    test = str(folder / "pictures" / "test")
    assert main(["predict", str(folder / "run"), *(option.replace("{test}", test) for option in options)]) == 2
    out, err = capsys.readouterr()
    assert message in err and not out and "Traceback" not in err


def test_predictions_print(folder: Path, pictures: list[Path]) -> None:
    (prediction,) = load_run(folder / "run").predict([str(pictures[0])])
    assert isinstance(prediction, Prediction)
    assert str(prediction).startswith(f"{pictures[0]}: {prediction.label} ")
    assert list(prediction.top(1)) == [prediction.label]
    assert prediction.name == str(pictures[0])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path) -> Iterator[None]:
    """Relative paths are in an empty folder."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)
