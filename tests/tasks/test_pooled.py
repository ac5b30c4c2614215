"""Regression and multi-label classification, from tables to predictions."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from hrt_mm import ConfigError, load_config, load_run, train
from hrt_mm.analysis.explain import Explainer
from hrt_mm.cli.main import main
from hrt_mm.core.errors import BadSample
from hrt_mm.data.sample import Sample
from hrt_mm.inference import MultilabelPrediction, NumberPrediction, export_run
from hrt_mm.inference.trained import load_task
from hrt_mm.tasks import Multilabel, MultilabelConfig, Regression, RegressionConfig
from hrt_mm.tasks.multilabel import over_views
from hrt_mm.train.rehearsal import rehearse
from hrt_mm.train.store import open_store
from tests.tasks.conftest import Rows, hierarchy

SIZE = 8
TRAIN = """
modality: {type: vision, patch: 4, size: 8, channels: 1}
model: {levels: [{name: image, dim: 16, heads: 2, depth: 1}]}
optim: {warmup_steps: 1, lr: 0.01}
train: {steps: 8, batch_size: 8, eval_every: 3, save_every: 2, tensorboard: false, num_threads: 1, precision: fp32}
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures, whose left and right halves have a brightness each."""
    folder = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    rows = []
    for number in range(48):
        left, right = (int(value) for value in draw.integers(0, 256, 2))
        pixels = np.full((SIZE, SIZE), left, np.uint8)
        pixels[:, SIZE // 2 :] = right
        Image.fromarray(pixels).save(folder / f"{number}.png")
        labels = [name for name, value in (("left", left), ("right", right)) if value >= 128]
        split = ("train", "train", "train", "val", "test")[number % 5]
        rows.append({"path": f"{number}.png", "split": split, "left": left, "right": right, "bright": ";".join(labels)})
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


def config(pictures: Path, run: Path, task: str, label: str) -> Path:
    path = run.with_suffix(".yaml")
    data = f"{{type: image_manifest, file: {pictures / 'table.csv'}, {label}}}"
    path.write_text(f"{TRAIN}\ntask: {task}\ndata: {data}\nrun: {{dir: {run}}}\n")
    return path


NUMBERS = "label: numbers, label_column: [left, right]"
CLASSES = "label: classes, label_column: bright"


@pytest.fixture(scope="module")
def regression(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("regression") / "run"
    return train(load_config(config(pictures, run, "{type: regression, outputs: [left, right]}", NUMBERS)))


@pytest.fixture(scope="module")
def multilabel(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("multilabel") / "run"
    path = config(pictures, run, "{type: multilabel, thresholds: val, pos_weight: balanced}", CLASSES)
    return train(load_config(path, ["train.ema=0.8"]))


def summary(run: Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads((run / "summary.json").read_text())["metrics"]
    return metrics


def table(pictures: Path) -> list[dict[str, str]]:
    with (pictures / "table.csv").open() as file:
        return list(csv.DictReader(file))


def test_numbers_are_learned_in_units_of_the_training_set(pictures: Path, regression: Path) -> None:
    task = load_run(regression).task
    assert isinstance(task, Regression)
    rows = [[float(row["left"]), float(row["right"])] for row in table(pictures) if row["split"] == "train"]
    numbers = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(task.mean_R.double(), numbers.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(task.std_R.double(), numbers.std(0, correction=0), rtol=1e-6, atol=0)


def test_metrics_of_regression_are_those_of_scikit_learn(pictures: Path, regression: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    run = load_run(regression)
    rows = [row for row in table(pictures) if row["split"] == "test"]
    predictions = run.predict([str(pictures / row["path"]) for row in rows])
    assert all(isinstance(prediction, NumberPrediction) for prediction in predictions)
    predicted = np.array([list(prediction.values.values()) for prediction in predictions])  # type: ignore[attr-defined]
    true = np.array([[float(row["left"]), float(row["right"])] for row in rows])
    got = summary(regression)
    assert got["test/mae"] == pytest.approx(metrics.mean_absolute_error(true, predicted), rel=1e-4)
    assert got["test/rmse"] == pytest.approx(metrics.root_mean_squared_error(true, predicted), rel=1e-4)
    assert got["test/r2"] == pytest.approx(metrics.r2_score(true, predicted), rel=1e-3, abs=1e-4)
    assert got["test/rmse/left"] == pytest.approx(
        metrics.root_mean_squared_error(true[:, 0], predicted[:, 0]), rel=1e-4
    )
    assert open_store(regression).monitor == "val/rmse"


def test_metrics_of_several_labels_are_those_of_scikit_learn(pictures: Path, multilabel: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    run = load_run(multilabel)
    rows = [row for row in table(pictures) if row["split"] == "test"]
    predictions = run.predict([str(pictures / row["path"]) for row in rows])
    names = run.classes
    assert names == ("left", "right")
    true = np.array([[name in row["bright"].split(";") for name in names] for row in rows])
    multilabel_predictions = [prediction for prediction in predictions if isinstance(prediction, MultilabelPrediction)]
    scores = np.array([[prediction.probabilities[name] for name in names] for prediction in multilabel_predictions])
    chosen = np.array([[name in prediction.labels for name in names] for prediction in multilabel_predictions])
    got = summary(multilabel)
    assert got["test/mAP"] == pytest.approx(metrics.average_precision_score(true, scores, average="macro"))
    assert got["test/micro_f1"] == pytest.approx(metrics.f1_score(true, chosen, average="micro"))
    assert got["test/macro_f1"] == pytest.approx(metrics.f1_score(true, chosen, average="macro"))
    assert got["test/exact_match"] == pytest.approx((true == chosen).all(1).mean())


def test_thresholds_are_chosen_on_val_and_belong_to_the_averaged_weights(multilabel: Path) -> None:
    task = load_run(multilabel).task
    assert isinstance(task, Multilabel)
    assert not torch.equal(task.threshold_K, torch.full((2,), 0.5))
    best = open_store(multilabel).read("best")
    assert torch.equal(best.tensors("ema")["threshold_K"], best.tensors("model")["threshold_K"])


def test_positive_weights_balance_the_training_set(pictures: Path, multilabel: Path) -> None:
    task = load_run(multilabel).task
    assert isinstance(task, Multilabel)
    rows = [row["bright"].split(";") for row in table(pictures) if row["split"] == "train"]
    counts = [sum(name in row for row in rows) for name in ("left", "right")]
    expected = torch.tensor([(len(rows) - count) / count for count in counts])
    torch.testing.assert_close(task.pos_weight_K, expected)


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_a_resumed_run_equals_the_uninterrupted_one(
    kind: str, pictures: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    whole: Path = request.getfixturevalue(kind)
    again = tmp_path / "run"
    shutil.copytree(whole, again)
    for path in (again / "checkpoints").iterdir():
        if path.name == "step-00000008":
            shutil.rmtree(path)
    (again / "summary.json").unlink()
    options = [f"run.dir={again}", *(["train.ema=0.8"] if kind == "multilabel" else [])]
    train(load_config(whole.with_suffix(".yaml"), options), resume=True)
    for name in ("model", "optimizer"):
        file = f"checkpoints/step-00000008/{name}.safetensors"
        assert (again / file).read_bytes() == (whole / file).read_bytes()
    assert summary(again) == summary(whole)


def test_predictions_are_written_with_what_is_true(
    pictures: Path, regression: Path, multilabel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, run in (("numbers", regression), ("classes", multilabel)):
        out = tmp_path / f"{kind}.jsonl"
        assert main(["eval", str(run), "--predictions", str(out)]) == 0
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert len(rows) == 9
        if kind == "numbers":
            assert rows[0].keys() == {"sample", "true", "predicted"}
            assert rows[0]["true"].keys() == rows[0]["predicted"].keys() == {"left", "right"}
        else:
            assert rows[0].keys() == {"sample", "true", "predicted", "scores"}
            assert set(rows[0]["predicted"]) <= {"left", "right"} == rows[0]["scores"].keys()
        assert main(["predict", str(run), str(pictures / "0.png"), "--out", str(tmp_path / f"{kind}.csv")]) == 0
        assert "predicted" in (tmp_path / f"{kind}.csv").read_text()
        capsys.readouterr()
        assert main(["predict", str(run), str(pictures / "0.png")]) == 0
        printed = capsys.readouterr().out
        assert "0.png: " in printed
        assert "left " in printed or "right " in printed or "no class" in printed


def test_a_report_shows_errors_by_output(regression: Path, multilabel: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for run, words in ((regression, ("Predicted numbers", "RMSE")), (multilabel, ("average precision", "threshold"))):
        assert main(["diagnose", str(run), "--out", str(tmp_path / run.parent.name)]) == 0
        text = (tmp_path / run.parent.name / "report.md").read_text()
        assert all(word in text for word in words)


def rebuilt(**options: Any) -> Multilabel:
    task = MultilabelConfig(type="multilabel", **options).build(hierarchy(2), Rows(), ("x", "y", "z"))
    return task


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"thresholds": (0.5, 0.5)},
            r"task.thresholds has 2 values, and the data has 3 classes: x, y, z; give one for",
        ),
        ({"thresholds": (0.1, 0.2, 0.3, 0.4)}, r"task.thresholds has 4 values, and the data has 3 classes"),
        ({"thresholds": {"x": 0.5, "y": 0.5}}, r"task.thresholds has no value for 'z'; the classes are x, y, z"),
        ({"pos_weight": {"x": 1.0, "y": 1.0, "z": 1.0, "w": 1.0}}, r"task.pos_weight names 'w'; the classes are x"),
    ],
)
def test_more_classes_than_thresholds_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rebuilt(**options)


def test_thresholds_of_each_class() -> None:
    assert rebuilt(thresholds={"z": 0.1, "x": 0.2, "y": 0.3}).threshold_K.tolist() == pytest.approx([0.2, 0.3, 0.1])
    assert rebuilt(thresholds=(0.1, 0.2, 0.3)).threshold_K.tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_views_are_averaged_as_probabilities() -> None:
    logits = torch.tensor([[[2.0, -30.0], [-1.0, 30.0]]])
    torch.testing.assert_close(over_views(logits).sigmoid(), logits.sigmoid().mean(1))
    torch.testing.assert_close(over_views(logits[:, :1]), logits[:, 0])


def numbers(label: Any, **options: Any) -> tuple[float, ...]:
    return RegressionConfig(type="regression", **options).numbers(Sample(None, label, "s"))


def test_numbers_of_a_label() -> None:
    assert numbers(3) == numbers("3") == numbers([3.0]) == (3.0,)
    unusable: list[Any] = ["three", None, True, float("inf"), []]
    for label in unusable:
        with pytest.raises(BadSample, match=r"must be finite numbers|has 0 numbers"):
            numbers(label)
    with pytest.raises(BadSample, match=r"has 2 numbers, and task.outputs names 1: value"):
        numbers([1, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 2.0}, "delta is for loss: huber"),
        ({"outputs": ("a", "a")}, "names a number twice"),
        ({"mean": (1.0,)}, "mean and std belong together"),
        ({"mean": (1.0, 2.0), "std": (1.0, 1.0)}, "mean has 2 values for 1 outputs"),
    ],
)
def test_settings_that_do_not_fit_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RegressionConfig(type="regression", **options)


def test_labels_that_cannot_be_learned_are_refused_at_the_start(pictures: Path, tmp_path: Path) -> None:
    flat = tmp_path / "table.csv"
    flat.write_text("path,split,label\n" + "".join(f"{pictures}/{n}.png,train,7\n" for n in range(4)))
    path = config(pictures, tmp_path / "run", "{type: regression}", "label: numbers, label_column: split")
    options = [f"data.file={flat}", f"data.root={pictures}", "train.eval_every=null", "train.test=false"]
    with pytest.raises(ConfigError, match=r"'value' is 7 in all samples of train; leave it out"):
        rehearse(load_config(path, [*options, "data.label_column=label", "train.batch_size=2"]))
    with pytest.raises(ConfigError, match=r"split must be a number, got 'train'"):
        rehearse(load_config(path, options))
    path = config(pictures, tmp_path / "more", "{type: multilabel, pos_weight: balanced}", "label: classes")
    with pytest.raises(ConfigError, match=r"pos_weight balanced: all samples of train have '7'"):
        rehearse(load_config(path, [*options, "train.batch_size=2"]))
    path = config(pictures, tmp_path / "val", "{type: multilabel, thresholds: val}", CLASSES)
    with pytest.raises(ConfigError, match=r"chooses its thresholds on val, and train.eval_every is null"):
        train(load_config(path, ["train.eval_every=null"]))


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_exported_files_give_what_the_model_predicts(
    kind: str, pictures: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    run = load_task(folder, inputs="own")
    export_run(run, tmp_path / "model.pt2", "pt2")
    paths = [str(pictures / row["path"]) for row in table(pictures) if row["split"] == "test"]
    images = torch.stack([torch.from_numpy(np.array(Image.open(path)))[None] for path in paths])
    inputs = run.tokenizer.dense_batch(list(images))  # type: ignore[attr-defined]
    output = torch.export.load(tmp_path / "model.pt2").module()(*inputs.values())
    for row, prediction in zip(output, load_run(folder).predict(paths), strict=True):
        if isinstance(prediction, NumberPrediction):
            expected, got = list(prediction.values.values()), row
        else:
            assert isinstance(prediction, MultilabelPrediction)
            expected, got = [prediction.probabilities[name] for name in run.classes or ()], row.sigmoid()
        torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_attribution_is_for_classifiers(regression: Path) -> None:
    with pytest.raises(ConfigError, match="attribution is for tasks classification"):
        Explainer(load_run(regression))
