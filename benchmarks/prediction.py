"""Predicting files beside training on them: files per second of processor time, in one process on one thread.

The model is that of ``vision/image_folder``, as weights do not change speed. Pictures are JPEG files of smooth noise.
Contenders run in turns. A training step is reading, augmentation, forward, backward and update.

- **check**: ``hrt-mm predict`` gives the files of a split the scores of ``hrt-mm eval --predictions``, to the last bit.
- **kill**: a job that is ended half-way and continued writes the same file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hrt_mm.analysis.explain import METHODS, Explainer
from hrt_mm.config import load_config
from hrt_mm.inference import TrainedRun, load_run
from hrt_mm.inference.predict import prediction_job, write_split
from hrt_mm.inference.prediction_rows import Journal
from hrt_mm.inference.sources import inputs_in
from hrt_mm.train.loop import train
from hrt_mm.train.summary import read_summary

from .checks import CheckFailed
from .command import main, parser, positive
from .markdown import markdown
from .results import Measured, Result, Row, environment

NAME = "prediction"
CONFIG = "vision/image_folder"
CLASSES = ("one", "two", "three")
BATCH = 32
OVERRIDES = [
    f"train.batch_size={BATCH}",
    "train.eval_every=null",
    "train.save_every=null",
    "train.test=false",
    "train.tensorboard=false",
    "train.workers=0",
    "train.num_threads=1",
    "train.precision=fp32",
    "train.clock=cpu",
]


def pictures(folder: Path, count: int, side: int) -> None:
    """JPEG files in the layout ROOT/SPLIT/CLASS/*."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for number in range(count):
            path = folder / split / CLASSES[number % len(CLASSES)] / f"{number:05}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(random.integers(0, 255, (12, 16, 3), np.uint8))
            coarse.resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(path, quality=90)


def training_seconds(root: Path, run: Path, steps: int) -> float:
    """Processor seconds of some training steps, of a run in a new folder."""
    train(load_config(CONFIG, [*OVERRIDES, f"data.root={root}", f"run.dir={run}", f"train.steps={steps}"]))
    return float(read_summary(run / "summary.json")["seconds"])


def predicted(run: TrainedRun, root: Path, out: Path, explain: str | None = None) -> float:
    """Processor seconds of a job over the test split's files, without loading the run."""
    start = time.process_time()
    explainer = Explainer(run, explain) if explain is not None else None
    inputs = inputs_in([root / "test"], run.readers)
    prediction_job(run, inputs, top=None, explain=explainer, identity={"explain": explain}).write(out)
    return time.process_time() - start


class _Ended(Exception):
    """Ends a job."""


@contextmanager
def ending(batches: int) -> Iterator[None]:
    """Ends a job after some batches."""
    add, left = Journal.add, iter(range(batches))

    def ended(self: Journal, *args: Sequence[object]) -> None:
        if next(left, None) is None:
            raise _Ended
        add(self, *args)  # type: ignore[arg-type]

    Journal.add = ended  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Journal.add = add  # type: ignore[method-assign]


def check(run: TrainedRun, root: Path, folder: Path) -> float:
    """The largest difference of a score from the evaluation's.

    Raises:
        CheckFailed: there is one, or a job that was continued wrote another file.
    """
    write_split(run.folder, "test", folder / "evaluated.jsonl")
    predicted(run, root, folder / "predicted.jsonl")
    rows = [
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        for name in ("evaluated", "predicted")
    ]
    difference = max(
        abs(score - other["scores"][label])
        for one, other in zip(*rows, strict=True)
        for label, score in one["scores"].items()
    )
    if difference:
        raise CheckFailed(f"scores of predict differ from those of eval by {difference:g}")
    try:
        with ending(1):
            predicted(run, root, folder / "continued.jsonl")
    except _Ended:
        pass
    else:
        raise CheckFailed("the job had one batch; give more --files")
    predicted(run, root, folder / "continued.jsonl")
    if (folder / "continued.jsonl").read_bytes() != (folder / "predicted.jsonl").read_bytes():
        raise CheckFailed("a job that was ended and continued wrote another file")
    return difference


def run(options: argparse.Namespace) -> Result:
    """Measures.

    Raises:
        CheckFailed: predictions differ from the evaluation, or a continued job from an uninterrupted one.
    """
    count = 2 * BATCH if options.quick else options.files
    rounds = 1 if options.quick else options.rounds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        root, steps = folder / "pictures", count // BATCH
        pictures(root, count, options.side)
        training_seconds(root, folder / "run", 1)
        trained = load_run(folder / "run")
        difference = check(trained, root, folder)
        seconds: dict[str, list[float]] = {}
        for number in range(rounds):
            calls: dict[str, Callable[[], float]] = {
                "training": partial(training_seconds, root, folder / f"run-{number}", steps),
                "predict": partial(predicted, trained, root, folder / f"{number}.csv"),
            }
            for method in METHODS:
                out = folder / f"{method}-{number}.csv"
                calls[f"predict --explain {method}"] = partial(predicted, trained, root, out, method)
            for name, call in calls.items():
                seconds.setdefault(name, []).append(call())
    files = {name: steps * BATCH if name == "training" else count for name in seconds}
    measured = {
        name: Measured(seconds=statistics.median(times), scores={"files/s": files[name] / statistics.median(times)})
        for name, times in seconds.items()
    }
    ratios = [
        (training / files["training"]) / (predict / count)
        for training, predict in zip(seconds["training"], seconds["predict"], strict=True)
    ]
    sizes: dict[str, int | float | str] = {"files": count, "side": options.side, "rounds": rounds}
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"config": CONFIG, "batch": BATCH},
        checks={"scores of predict and of eval": difference},
        rows=[Row(sizes=sizes, contenders=measured, ratios={"predict/training": statistics.median(ratios)})],
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    (row,) = result.rows
    sizes = f"{row.sizes['files']} JPEG files of {row.sizes['side']} pixels in height"
    ratio = row.ratios["predict/training"]
    body = [
        [name, f"{measured.seconds or 0:.2f} s", f"{measured.scores['files/s'] or 0:,.1f}"]
        for name, measured in row.contenders.items()
    ]
    return "\n\n".join(
        [
            f"{sizes}, processor time of one thread, median of {row.sizes['rounds']} rounds; `predict` reads "
            f"{ratio:.1f} times as many files per second as training.",
            markdown(["what", "time", "files/s"], body),
        ]
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--files", type=positive, default=128, help="of each split")
    options.add_argument("--side", type=positive, default=256, help="height of the pictures, in pixels")
    options.add_argument("--rounds", type=positive, default=3)
    return options


if __name__ == "__main__":
    sys.exit(main(arguments(), run, tables))
