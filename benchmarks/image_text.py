"""Pictures and words together: which of nine groups an emoji is of, beside each of both alone, and a shallow pair.

``retrieval/emoji_groups`` trains by ``hrt-mm train`` for some minutes of processor time on one thread (wall-clock time
on a GPU), and twice more without the words and without the picture, for as long. Its best weights by the validation
split then tell the 185 test emoji, none of which nor a variant of which was trained on: from both, and where one is
missing (``task.without``). The shallow pair is scikit-learn's: logistic regression over the TF-IDF of words, a support
vector machine over 16 x 16 pixels, and both by the sum of their log-probabilities; and the same over character n-grams.
``--shallow`` trains nothing else. ``--config retrieval/emoji_groups_words`` reads words by static vectors instead of
letters, and ``--no-alone`` leaves out the runs of one modality. ``HRT_MM_DATA`` names the folder that holds ``emoji/``.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import UserError
from hrt_mm.inference.trained import evaluate_run
from hrt_mm.tasks.fused import FusedConfig
from hrt_modalities.joint.manifest import JointRows

from .command import main, parser
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import Finished, for_minutes, kept_or_trained, scores

NAME = "image_text"
CONFIGS = ("retrieval/emoji_groups", "retrieval/emoji_groups_words")
OTHER = {"image": "text", "text": "image"}
"""What is left out for what is read alone."""
METRICS = ("accuracy", "macro_f1")
SIDE = 16
"""Pixels of the shallow picture."""
QUICK = ["train.batch_size=2", "optim.warmup_steps=1", "train.eval_every=1000000", "train.eval_batches=1"]


def alone(config: RunConfig, kind: str) -> RunConfig:
    """The same of one modality, which then needs no help to be learned beside another."""
    assert isinstance(config.task, FusedConfig)
    task = config.task.model_copy(update={"without": (OTHER[kind],), "alone": 0.0, "drop_modality": 0.0})
    return config.model_copy(update={"task": task})


def train(name: str, config: RunConfig, home: Path, options: argparse.Namespace) -> Finished:
    """A contender's run, or the finished one that is there already."""
    minutes = 0.01 if options.quick else options.minutes
    words = [*for_minutes(minutes, options.device), f"train.seed={options.seed}", *(QUICK if options.quick else [])]
    return kept_or_trained(config, home / name, words)


def told(run: Finished, folder: Path, without: Sequence[str], device: str) -> Measured:
    """What a run tells of the test split, maybe without a modality, with its training time and size."""
    left_out = f"task.without=[{', '.join(without)}]"
    metrics = evaluate_run(folder, "test", [f"train.device={device}", left_out])
    values: dict[str, float | None] = {name: metrics[f"test/{name}"] for name in METRICS}
    sizes = scores(run, {})
    return Measured(seconds=run.summary["seconds"], bytes=run.summary["peak_memory_bytes"], scores={**values, **sizes})


def shallow(train: JointRows, test: JointRows) -> dict[str, Measured]:
    """scikit-learn's pair, by what is read."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    samples = {split: [data[index] for index in range(len(data))] for split, data in (("train", train), ("test", test))}
    texts = {split: [re.sub(r"\W+", " ", one.value["text"]) for one in item] for split, item in samples.items()}
    pixels = {split: np.stack([_pixels(one.value["image"]) for one in item]) for split, item in samples.items()}
    labels = {split: [one.label for one in item] for split, item in samples.items()}
    begun = time.process_time()
    words = TfidfVectorizer()
    reader = LogisticRegression(C=10, max_iter=2000).fit(words.fit_transform(texts["train"]), labels["train"])
    read = time.process_time()
    # Calibrated over folds: an SVM has no probabilities of its own.
    viewer = CalibratedClassifierCV(SVC(C=10), ensemble=False).fit(pixels["train"], labels["train"])
    seen = time.process_time()
    by_text = reader.predict_log_proba(words.transform(texts["test"]))
    by_image = np.log(viewer.predict_proba(pixels["test"]).clip(1e-9))
    assert list(reader.classes_) == list(viewer.classes_)
    results = {"text": (by_text, read - begun), "image": (by_image, seen - read)}
    results["both"] = by_text + by_image, seen - begun
    begun = time.process_time()
    ngrams = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))
    reader = LogisticRegression(C=10, max_iter=2000).fit(ngrams.fit_transform(texts["train"]), labels["train"])
    read = time.process_time()
    by_ngrams = reader.predict_log_proba(ngrams.transform(texts["test"]))
    results["text by n-grams"] = by_ngrams, read - begun
    results["both, by n-grams"] = by_ngrams + by_image, read - begun + results["image"][1]
    return {kind: _scored(reader.classes_[of.argmax(1)], labels["test"], took) for kind, (of, took) in results.items()}


def _pixels(image: Tensor) -> np.ndarray:
    small = resize(image, [SIDE, SIDE], antialias=True).float() / 255
    return small.expand(3, -1, -1).flatten().numpy()


def _scored(guesses: Any, labels: Sequence[str], seconds: float) -> Measured:
    from sklearn.metrics import accuracy_score, f1_score

    scores = {"accuracy": accuracy_score(labels, guesses), "macro_f1": f1_score(labels, guesses, average="macro")}
    return Measured(seconds=seconds, scores={name: float(value) for name, value in scores.items()})


def run(options: argparse.Namespace) -> Result:
    """Trains what is not there, and measures all.

    Raises:
        UserError: the data is not there, or a run failed.
    """
    if not os.environ.get("HRT_MM_DATA"):
        raise UserError("HRT_MM_DATA is not set; name the folder that holds emoji/")
    config, device = load_config(options.config), options.device.type
    named = [] if options.shallow else _trained(config, device, options)
    data = {split: config.data.plain(split) for split in ("train", "test")}
    assert isinstance(data["train"], JointRows) and isinstance(data["test"], JointRows)
    named.append(("scikit-learn", shallow(data["train"], data["test"])))
    rows = [Row(sizes={"model": name}, contenders=result, ratios={}) for name, result in named]
    counts = Counter(entry.target for entry in data["test"].entries)
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={
            "minutes": options.minutes,
            "seed": options.seed,
            "config": options.config,
            "test": len(data["test"]),
            "most_common": max(counts.values()) / len(data["test"]),
        },
        checks={},
        rows=rows,
        bars=[] if options.quick or options.shallow else bars(rows),
        **environment(options.device),
    )


def _trained(config: RunConfig, device: str, options: argparse.Namespace) -> list[tuple[str, dict[str, Measured]]]:
    """The fused model, and those of each modality, by what they read."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(options.runs or folder)
        home.mkdir(parents=True, exist_ok=True)
        run = train("fused", config, home, options)
        fused = {"both": told(run, home / "fused", (), device)}
        fused |= {kind: told(run, home / "fused", (other,), device) for kind, other in OTHER.items()}
        if not options.alone:
            return [("fused", fused)]
        single = {}
        for kind, other in OTHER.items():
            run = train(kind, alone(config, kind), home, options)
            single[kind] = told(run, home / kind, (other,), device)
    return [("fused", fused), ("trained alone", single)]


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Whether fusing brings something over each modality, alone or with the other one missing, and over the pair."""
    by = {str(row.sizes["model"]): row.contenders for row in rows}
    both = by["fused"]["both"].scores["accuracy"] or 0.0
    claims = [
        (f"both over {kind}, by a model of it alone", single) for kind, single in by.get("trained alone", {}).items()
    ]
    claims += [(f"both over {kind} alone in the same model", by["fused"][kind]) for kind in OTHER]
    claims += [("both over the shallow pair", by["scikit-learn"]["both"])]
    leads = {claim: both - (other.scores["accuracy"] or 0.0) for claim, other in claims}
    return [Bar(claim=claim, goal="above 0", measured=f"{lead:+.1%}", met=lead > 0) for claim, lead in leads.items()]


def tables(result: Result) -> str:
    """The result as Markdown."""
    body = []
    for row in result.rows:
        for kind, one in row.contenders.items():
            sizes = [f"{one.scores[key]:,.0f}" if key in one.scores else "" for key in ("parameters", "steps")]
            figures = [f"{one.scores[metric]:.1%}" for metric in METRICS]
            body.append([f"{row.sizes['model']}", kind, *sizes, f"{one.seconds:,.1f}", *figures])
    head = ["model", "reads", "parameters", "steps", "seconds of training", "accuracy", "macro-F1"]
    return (
        f"Groups of {result.settings['test']} test emoji, of which the most common one is "
        f"{result.settings['most_common']:.1%}:\n\n{markdown(head, body)}"
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--shallow", action="store_true", help="the shallow pair alone")
    options.add_argument("--config", choices=CONFIGS, default=CONFIGS[0], help=f"{CONFIGS[0]} when absent")
    options.add_argument("--no-alone", dest="alone", action="store_false", help="leave out runs of one modality")
    options.add_argument("--minutes", type=float, default=6.0, help="of each run; 6 when absent")
    options.add_argument("--runs", type=Path, metavar="DIR", help="keep runs here, and take those that are there")
    options.add_argument("--seed", type=int, default=0, help="of the weights and the order; 0 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
