"""What each task predicts, of files and tables, and of the split that it is evaluated on."""

from __future__ import annotations

import io
import json
import math
import struct
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hrt_mm import ConfigError, load_config, load_run, train
from hrt_mm.cli.main import main
from hrt_mm.inference import SpanPrediction, TrainedRun

TEXT = """
modality: {type: text}
model: {levels: [{name: bytes, dim: 16, depth: 1, heads: 2, window: 8}]}
"""
END = "train: {steps: 2, batch_size: 4, eval_every: null, test: false, num_threads: 1, precision: fp32}"
WORDS = ["the", "cat", "sat", "down"]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tagged(folder: Path) -> str:
    rows = [
        {"words": WORDS[: 2 + number % 3], "tags": ["D", "N", "V", "A"][: 2 + number % 3], "split": split}
        for split in ("train", "test")
        for number in range(6)
    ]
    write_rows(folder / "tags.jsonl", rows)
    return f"{TEXT}task: {{type: tagging, unit: words}}\ndata: {{type: tags, file: {folder / 'tags.jsonl'}}}\n"


def texts(folder: Path) -> str:
    rows = [
        {"text": f"The cat sat. It saw {number} dogs.", "split": split}
        for split in ("train", "test")
        for number in range(5)
    ]
    write_rows(folder / "texts.jsonl", rows)
    return f"{TEXT}data: {{type: documents, file: {folder / 'texts.jsonl'}, label_column: null}}\n"


def segmented(folder: Path) -> str:
    return texts(folder) + "task: {type: segmentation, unit: words, borders: {sentences: {}}, labels: false}\n"


def bounded(folder: Path) -> str:
    return texts(folder) + "task: {type: boundary, unit: words}\n"


def paired(folder: Path) -> str:
    rows = [
        {"one": f"a text {number}", "two": f"another {number}", "label": "ny"[number % 2], "split": split}
        for split in ("train", "test")
        for number in range(6)
    ]
    write_rows(folder / "pairs.jsonl", rows)
    data = f"{{type: documents, file: {folder / 'pairs.jsonl'}, text_column: [one, two]}}"
    return f"{TEXT}task: {{type: matching}}\ndata: {data}\n"


def spoken(folder: Path) -> str:
    rows = ["path\ttext\tsplit"]
    for number in range(8):
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            pitch = 0.1 + 0.1 * (number % 2)
            file.writeframes(b"".join(struct.pack("<h", round(8000 * math.sin(n * pitch))) for n in range(4000)))
        rows.append(f"{number}.wav\tlow high\t{('train', 'test')[number >= 5]}")
    (folder / "takes.tsv").write_text("\n".join(rows) + "\n")
    return f"""
modality: {{type: audio, rate: 8000}}
model: {{levels: [{{name: frames, dim: 16, depth: 1, heads: 2, window: 8}}]}}
task: {{type: ctc, unit: words}}
data: {{type: audio_manifest, file: {folder / "takes.tsv"}, label: words, label_column: text}}
"""


def fused(folder: Path) -> str:
    rows = []
    random = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(random.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
        row = {"photo": f"{number}.png", "text": f"a text {number}", "label": "ab"[number % 2]}
        rows.append(row | {"split": ("train", "test")[number >= 8]} | ({"text": ""} if number == 9 else {}))
    write_rows(folder / "listing.jsonl", rows)
    sources = "{image: {type: image, column: photo}, text: {type: text, column: text}}"
    return f"""
towers:
  image:
    modality: {{type: vision, channels: 1, patch: 4}}
    model: {{levels: [{{name: picture, dim: 16, depth: 1, heads: 2}}]}}
  text:
    modality: {{type: text}}
    model: {{levels: [{{name: bytes, dim: 16, depth: 1, heads: 2}}]}}
task: {{type: fused_classification, fusion: {{type: gated, dim: 16}}}}
data: {{type: joint_manifest, file: {folder / "listing.jsonl"}, sources: {sources}}}
"""


MAKERS: dict[str, Callable[[Path], str]] = {
    "tagging": tagged,
    "segmentation": segmented,
    "boundary": bounded,
    "matching": paired,
    "ctc": spoken,
    "fused": fused,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a short run of each task, which is trained when it is first asked for."""
    made: dict[str, Path] = {}

    def run(task: str) -> Path:
        if task not in made:
            folder = tmp_path_factory.mktemp(task)
            (folder / "config.yaml").write_text(MAKERS[task](folder) + END)
            train(load_config(str(folder / "config.yaml"), [f"run.dir={folder / 'run'}"]))
            made[task] = folder
        return made[task]

    return run


def spans(run: TrainedRun, value: Any) -> SpanPrediction:
    (prediction,) = run.predict([value])
    assert isinstance(prediction, SpanPrediction)
    return prediction


def test_words_are_tagged_where_they_stand(runs: Callable[[str], Path]) -> None:
    prediction = spans(load_run(runs("tagging") / "run"), "Ärger, the cat")
    assert prediction.unit == "bytes" and prediction.text is None
    assert " ".join(span.text for span in prediction.spans).split() == ["Ärger,", "the", "cat"]
    assert (prediction.spans[0].start, prediction.spans[-1].end) == (0, len("Ärger, the cat".encode()))
    assert all(span.label in "DNVA" and span.score is not None and 0 < span.score <= 1 for span in prediction.spans)
    assert "cat" in str(prediction)


def test_segments_and_boundaries_cover_the_text(runs: Callable[[str], Path]) -> None:
    text = "One sentence. Another one."
    for task in ("segmentation", "boundary"):
        prediction = spans(load_run(runs(task) / "run", overrides=["task.threshold=0.1"]), text)
        edges = [(span.start, span.end) for span in prediction.spans]
        assert edges[0][0] == 0 and edges[-1][1] == len(text)
        assert [end for _, end in edges[:-1]] == [start for start, _ in edges[1:]]
        if task == "segmentation":
            assert prediction.spans[0].border is None
            assert all(span.border == "sentences" and span.border_score for span in prediction.spans[1:])


def test_a_sound_is_transcribed_with_times(runs: Callable[[str], Path], tmp_path: Path) -> None:
    folder = runs("ctc")
    out = tmp_path / "p.jsonl"
    assert main(["predict", str(folder / "run"), str(folder), "--out", str(out)]) == 0
    rows = lines_of(out)
    assert len(rows) == 8 and all(row["unit"] == "seconds" for row in rows)
    for row in rows:
        assert row["predicted"] == " ".join(span["label"] for span in row["spans"])
        assert all(0 <= span["start"] < span["end"] <= 0.51 for span in row["spans"])


def test_a_transcript_is_timed_by_its_alignment(runs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(runs("ctc") / "run")
    # Untrained frames are blank; these say "low" for a while, and "high" later.
    head = type(run.task)

    def log_probs(self: Any, x_ND: Any) -> Any:
        scores_NK = x_ND.new_full((len(x_ND), 3), -9.0)
        scores_NK[:, 2] = 0
        scores_NK[10:15] = (
            x_ND.new_tensor([-9.0, 0, -9]) if self.symbols[0] == "high" else x_ND.new_tensor([0, -9.0, -9])
        )
        scores_NK[30:32] = (
            x_ND.new_tensor([0, -9.0, -9]) if self.symbols[0] == "high" else x_ND.new_tensor([-9.0, 0, -9])
        )
        return scores_NK.log_softmax(-1)

    monkeypatch.setattr(head, "raw_log_probs", log_probs)
    prediction = spans(run, str(runs("ctc") / "0.wav"))
    assert prediction.text == "low high" and prediction.labels == ["low", "high"]
    assert [(span.start, span.end) for span in prediction.spans] == [
        pytest.approx((0.10, 0.15)),
        pytest.approx((0.30, 0.32)),
    ]


def test_pairs_are_matched_from_two_columns(runs: Callable[[str], Path], tmp_path: Path) -> None:
    folder = runs("matching")
    out = tmp_path / "p.jsonl"
    columns = ["--column", "one", "--column", "two"]
    assert main(["predict", str(folder / "run"), str(folder / "pairs.jsonl"), *columns, "--out", str(out)]) == 0
    rows = lines_of(out)
    assert len(rows) == 12 and set(rows[0]["scores"]) == {"n", "y"} and rows[0]["label"] == "n"
    pairs = [("a text 0", "another 0"), ("a text 1", "another 1")]
    predictions = load_run(folder / "run").predict(pairs, batch_size=4)
    assert [prediction.row()["predicted"] for prediction in predictions] == [row["predicted"] for row in rows[:2]]


def test_towers_are_read_from_columns_and_may_be_missing(
    runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs("fused")
    table, run = str(folder / "listing.jsonl"), str(folder / "run")
    out, other = tmp_path / "p.jsonl", tmp_path / "test.jsonl"
    assert main(["predict", run, table, "--column", "image=photo", "--column", "text=text", "--out", str(out)]) == 0
    rows = lines_of(out)
    assert len(rows) == 12 and rows[0]["sample"].endswith("0.png")
    # The test split is the last batch of both.
    assert main(["eval", run, "--predictions", str(other)]) == 0
    assert [row["scores"] for row in lines_of(other)] == [row["scores"] for row in rows[8:]]
    assert main(["predict", run, str(folder / "0.png"), "--tower", "image"]) == 0
    assert "0.png: " in capsys.readouterr().out
    for options, message in (
        ([str(folder / "0.png")], "the model reads image, text: give a table with a column for each"),
        ([str(folder / "0.png"), "--tower", "sound"], "the model has no tower 'sound'; its towers are image, text"),
        ([table, "--column", "photo"], "--column photo: write TOWER=NAME; the towers are image, text"),
        ([table, "--column", "image=foto"], "has no column 'foto'; its columns are photo, text, label, split"),
        ([table, "--tower", "image"], "--tower is for files, and only tables are given"),
    ):
        assert main(["predict", run, *options]) == 2
        assert message in capsys.readouterr().err


def test_towers_are_embedded_and_located(runs: Callable[[str], Path]) -> None:
    folder = runs("fused")
    run = load_run(folder / "run")
    inputs = [{"image": str(folder / "0.png"), "text": "a text"}, {"text": "alone"}]
    assert run.embed(inputs).shape == (2, 16)
    with pytest.raises(ConfigError, match="fuses its towers into one vector"):
        run.embed(inputs, "bytes")
    both, alone = run.levels(inputs, "image")
    assert both["picture"].vectors_ND.shape == (4, 16) and not alone
    (bytes_of_text,) = run.levels(inputs[1:], "text")
    assert bytes_of_text["bytes"].locations == tuple((byte, byte + 1) for byte in range(5))
    with pytest.raises(ConfigError, match="has the towers image, text; name one"):
        run.levels(inputs)


def test_lines_are_texts_for_models_of_text(
    runs: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("some words\n\nothers\r\n", newline=""))
    assert main(["predict", str(runs("tagging") / "run"), "-", "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["sample"] for row in rows] == ["line 1", "line 3"]
    assert [len(row["spans"]) for row in rows] == [2, 1]


@pytest.mark.parametrize("task", list(MAKERS))
def test_a_split_is_written_with_its_labels(runs: Callable[[str], Path], task: str, tmp_path: Path) -> None:
    out = tmp_path / "test.jsonl"
    assert main(["eval", str(runs(task) / "run"), "--predictions", str(out)]) == 0
    rows = lines_of(out)
    true = {
        "tagging": ["D", "N"],
        "segmentation": None,
        "boundary": None,
        "matching": "n",
        "ctc": "low high",
        "fused": "a",
    }
    assert rows and rows[0]["true"] == true[task]
    if task == "tagging":
        assert [len(row["predicted"]) for row in rows] == [len(row["true"]) for row in rows]


@pytest.mark.parametrize("task", ["tagging", "segmentation", "boundary", "ctc", "matching"])
def test_attributions_are_of_classes_alone(
    task: str, runs: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(runs(task) / "run"), str(runs(task)), "--explain", "gradient"]) == 2
    message = f"was trained on task {task}; attribution is for tasks classification and fused_classification"
    assert message in capsys.readouterr().err


def test_a_unit_that_files_do_not_have_is_named(runs: Callable[[str], Path], tmp_path: Path) -> None:
    config = tagged(tmp_path).replace("{type: text}", "{type: text, carried: [names]}")
    config = config.replace("unit: words", "unit: names").replace("file: ", "unit: names, file: ")
    (tmp_path / "config.yaml").write_text(config + END)
    run = load_run(train(load_config(str(tmp_path / "config.yaml"), [f"run.dir={tmp_path / 'run'}"])))
    with pytest.raises(ConfigError, match="labels names, which come with the data and are in no bare file"):
        run.predict(["a text"])
