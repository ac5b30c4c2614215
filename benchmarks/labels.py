"""Numbers and sets of classes, on data that scikit-learn ships, beside models of scikit-learn on the same features.

``digit``: which number a handwritten digit is, as a number, from scikit-learn's ``digits`` (1,797 scans of 8x8 pixels).
``progression``: diabetes one year on, from ten measurements of 442 patients (``diabetes``), as rows of ten pixels.
``properties``: what is true of a digit, of five properties (even, prime, above four, square, round), from its scan.

Splits are those that ``hrt-mm`` makes of the tables, 80% to train on. The models train by ``hrt-mm train`` for the same
processor time. ``hierarchy`` has three levels, ``flat`` is the control of the same blocks. scikit-learn's models are
fitted to pixels or measurements, with the settings that are best on the validation part.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVR

from hrt_mm.config import RunConfig, load_config

from .command import main, parser
from .markdown import markdown
from .results import Measured, Result, Row, environment
from .runs import Finished, flat, for_minutes, scores, trained, written

NAME = "labels"
PROPERTIES = {
    "even": {0, 2, 4, 6, 8}, "prime": {2, 3, 5, 7}, "above four": {5, 6, 7, 8, 9}, "square": {0, 1, 4, 9},
    "round": {0, 6, 8, 9},
}  # fmt: skip
METRICS = {"regression": ("mae", "rmse", "r2"), "multilabel": ("mAP", "micro_f1", "macro_f1")}
SCANS = """
modality: {{type: vision, channels: 1, patch: 1, mean: 0.3, std: 0.38, stem: {{type: conv}}}}
model:
  levels:
    - {{name: pixels,  dim: 64,  depth: 1, heads: 2, window: 4, group: {{type: fixed, stride: 2}}, pool: conv}}
    - {{name: strokes, dim: 96,  depth: 1, heads: 3, group: {{type: fixed, stride: 2}}, pool: conv}}
    - {{name: digit,   dim: 128, depth: 2, heads: 4}}
  cross_scale: {{up: true, down: true}}
task: {task}
data:
  type: image_manifest
  file: "{file}"
  split_column: null
  {label}
  augment: [{{type: affine, degrees: 10, translate: [0.1, 0.1], scale: [0.9, 1.1]}}]
optim: {{lr: 2.0e-3, warmup_steps: 50}}
train: {{steps: 1000, batch_size: 64, eval_every: 50, seed: {seed}}}
"""
MEASUREMENTS = """
modality: {{type: vision, channels: 1, patch: 1, mean: 0.5, std: 0.25}}
model:
  levels:
    - {{name: measurements, dim: 32, depth: 1, heads: 2, group: {{type: fixed, stride: [1, 5]}}}}
    - {{name: halves, dim: 48, depth: 1, heads: 2, group: {{type: fixed, stride: [1, 2]}}}}
    - {{name: patient, dim: 64, depth: 1, heads: 2}}
task: {task}
data: {{type: image_manifest, file: "{file}", split_column: null, {label}}}
optim: {{lr: 1.0e-3, warmup_steps: 50, weight_decay: 0.5}}
train: {{steps: 1000, batch_size: 32, eval_every: 25, seed: {seed}}}
"""


def digits(folder: Path, column: str, label: Callable[[int], Any]) -> tuple[Path, dict[str, np.ndarray]]:
    """A table of scikit-learn's digits as files, and their pixels by file."""
    data = load_digits()
    names = [f"{number:04d}.png" for number in range(len(data.target))]
    for name, image in zip(names, data.images, strict=True):
        Image.fromarray((image * (255 / 16)).round().astype(np.uint8)).save(folder / name)
    labels = [label(int(target)) for target in data.target]
    return _table(folder, names, column, labels), dict(zip(names, data.data / 16, strict=True))


def diabetes(folder: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A table of scikit-learn's patients, whose measurements are shades of grey, and the measurements by file."""
    data = load_diabetes()
    low, high = data.data.min(0), data.data.max(0)
    shades = ((data.data - low) / (high - low) * 65535).round().astype(np.uint16)
    names = [f"{number:03d}.png" for number in range(len(shades))]
    for name, row in zip(names, shades, strict=True):
        Image.fromarray(row[None]).save(folder / name)
    return _table(folder, names, "progression", data.target.tolist()), dict(zip(names, shades / 65535, strict=True))


def _table(folder: Path, names: list[str], column: str, labels: list[Any]) -> Path:
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", column), *zip(names, labels, strict=True)])
    return folder / "table.csv"


def splits(config: RunConfig, features: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, Any]:
    """Features and targets of each split of a run: numbers, or which of the classes a sample has."""
    parts = {}
    for split in ("train", "val", "test"):
        dataset = config.data.build(split)
        labels = [dataset.label_of(index) for index in range(len(dataset))]
        targets = [[name in label for name in names] for label in labels] if names else [label[0] for label in labels]
        parts[split] = np.stack([features[dataset.name(index)] for index in range(len(dataset))]), np.array(targets)
    return parts


def regressors(parts: dict[str, Any]) -> dict[str, Measured]:
    """Regression by scikit-learn, with the settings of the least error on the validation part."""
    groups = {
        "the mean": [None],
        "ridge regression": [Ridge(alpha) for alpha in (0.01, 0.1, 1.0, 10.0)],
        "support vectors": [SVR(C=c, gamma=g) for c in (1.0, 10.0, 100.0) for g in ("scale", 0.1, 1.0)],
        "random forest": [RandomForestRegressor(300, min_samples_leaf=n, random_state=0) for n in (1, 3, 10)],
    }
    (x, y), (x_val, y_val), (x_test, y_test) = (parts[split] for split in ("train", "val", "test"))
    results = {}
    for name, models in groups.items():
        predictions = [
            (model.fit(x, y).predict(x_val), model.predict(x_test))
            if model is not None
            else (np.full(len(y_val), y.mean()), np.full(len(y_test), y.mean()))
            for model in models
        ]
        best = min(predictions, key=lambda pair: root_mean_squared_error(y_val, pair[0]))[1]
        results[name] = Measured(
            seconds=None,
            scores={
                "mae": mean_absolute_error(y_test, best),
                "rmse": root_mean_squared_error(y_test, best),
                "r2": r2_score(y_test, best),
            },
        )
    return results


def classifiers(parts: dict[str, Any]) -> dict[str, Measured]:
    """A logistic regression for each class, with the strength of the best precision on the validation part."""
    (x, y), (x_val, y_val), (x_test, y_test) = (parts[split] for split in ("train", "val", "test"))
    models = [OneVsRestClassifier(LogisticRegression(C=c, max_iter=2000)).fit(x, y) for c in (0.1, 1.0, 10.0, 100.0)]
    best = max(models, key=lambda model: average_precision_score(y_val, model.predict_proba(x_val)))
    scores_NK = best.predict_proba(x_test)
    measured = {
        "mAP": average_precision_score(y_test, scores_NK),
        "micro_f1": f1_score(y_test, scores_NK >= 0.5, average="micro"),
        "macro_f1": f1_score(y_test, scores_NK >= 0.5, average="macro"),
    }
    return {"logistic regression": Measured(seconds=None, scores=measured)}


def run(options: argparse.Namespace) -> Result:
    """Trains both models and scikit-learn's on each of the three."""
    numbers, classes = "label: numbers, label_column: ", "label: classes, label_column: properties"
    problems: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
        "digit": (SCANS, "{type: regression, loss: huber}", "digit", ()),
        "progression": (MEASUREMENTS, "{type: regression, dropout: 0.2}", "progression", ()),
        "properties": (SCANS, "{type: multilabel, thresholds: val}", "properties", tuple(sorted(PROPERTIES))),
    }
    rows = []
    for problem, (text, task, column, names) in problems.items():
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            if problem == "progression":
                file, features = diabetes(folder)
            else:
                label = _properties if names else int
                file, features = digits(folder, column, label)
            label_keys = classes if names else numbers + column
            label_keys = label_keys.replace(", ", "\n  ") if text is SCANS else label_keys
            draft = folder / "draft.yaml"
            draft.write_text(text.format(task=task, file=file, label=label_keys, seed=options.seed))
            config = load_config(draft)
            parts = splits(config, features, names)
            kind = config.task.type
            contenders = classifiers(parts) if names else regressors(parts)
            for name in ("hierarchy", "flat"):
                made_config = written(config if name == "hierarchy" else flat(config), folder / f"{name}.yaml")
                minutes = 0.02 if options.quick else options.minutes
                finished = trained(made_config, folder / name, for_minutes(minutes, options.device))
                contenders[name] = _measured(finished, kind)
            sizes: dict[str, int | float | str] = {"problem": problem, "task": kind}
            sizes |= {f"{split} samples": len(parts[split][1]) for split in parts}
            rows.append(Row(sizes=sizes, contenders=contenders, ratios={}))
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"minutes": options.minutes, "seed": options.seed},
        checks={},
        rows=rows,
        **environment(options.device),
    )


def _properties(digit: int) -> str:
    return ";".join(name for name, digits in PROPERTIES.items() if digit in digits)


def _measured(finished: Finished, kind: str) -> Measured:
    measured = scores(finished, {key: f"test/{key}" for key in METRICS[kind]})
    return Measured(seconds=finished.summary["seconds"], scores={**measured})


def tables(result: Result) -> str:
    """The result as Markdown."""
    parts = [f"{result.settings['minutes']:g} minutes of processor time on one thread for `hierarchy` and `flat`."]
    for row in result.rows:
        metrics = METRICS[str(row.sizes["task"])]
        body = [
            [name, *(f"{measured.scores[key]:.3f}" for key in metrics)] for name, measured in row.contenders.items()
        ]
        counts = ", ".join(f"{row.sizes[f'{split} samples']:,} {split}" for split in ("train", "val", "test"))
        parts.append(
            f"{row.sizes['problem']} ({counts} samples):\n\n{markdown([str(row.sizes['task']), *metrics], body)}"
        )
    return "\n\n".join(parts)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--minutes", type=float, default=3.0, help="of each contender and problem; 3 when absent")
    options.add_argument("--seed", type=int, default=0, help="of the weights and the order; 0 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
