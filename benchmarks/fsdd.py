"""Spoken digits at equal time, on the official split and on each speaker who was not trained on.

A hierarchy, its flat control and the nearest neighbour are compared. The first two are trained by the project's own
command, one thread each, until their process has computed for the same minutes (``train.clock: cpu``): on a busy
machine neither loses. Parameters, stem, optimizer, batch and augmentation are equal, and schedules follow the time that
is gone. Weights are those at the end: the test speaker chooses nothing. ``HRT_MM_DATA`` names the folder that holds
``fsdd/index.tsv``.

With ``--runs DIR`` run folders are kept there, and those that are finished are not trained again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hrt_mm.core.errors import UserError
from hrt_mm.data.files import Home
from hrt_modalities.audio import AudioConfig
from hrt_modalities.audio.recordings import Recordings
from hrt_modalities.corpora.fsdd import FsddConfig

from .checks import CheckFailed
from .command import main, parser
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import finished, kept

NAME = "fsdd"
CONFIGS = {"hierarchy": "audio/fsdd", "flat": "audio/fsdd_flat"}
NAMES = (*CONFIGS, "nearest")
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
OFFICIAL = "official split"
GOALS = {OFFICIAL: 0.99, "speakers": 0.90}
"""Accuracy that the hierarchy must reach."""
TOLERANCE = 0.01
"""How far the contenders' parameters may differ."""
BANDS, STRETCHES = 16, 8
"""Of the nearest neighbour's spectrum, in frequency and time."""


def overrides(fold: str, minutes: float, folder: Path) -> list[str]:
    """What a run changes in its configuration."""
    options = [f"run.dir={folder}", "train.clock=cpu", f"train.time_limit={minutes}", "train.workers=0"]
    options += ["train.num_threads=1", "train.device=cpu", "train.tensorboard=false"]
    return options if fold == OFFICIAL else [*options, f"data.leave_out={fold}"]


def train(name: str, fold: str, minutes: float, folder: Path) -> dict[str, Any]:
    """Trains a contender on a fold, unless its finished run is there already.

    Returns:
        The run's summary.

    Raises:
        UserError: the run failed, which gives its last words, or another run lies in its folder.
    """
    words = overrides(fold, minutes, folder)
    if (stored_run := kept(CONFIGS[name], folder, words)) is not None:
        return stored_run.summary
    done = subprocess.run(
        [sys.executable, "-m", "hrt_mm", "train", CONFIGS[name], *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        raise UserError(f"the run of {name} on {fold} failed: {' '.join(done.stdout.strip().splitlines()[-3:])}")
    result = finished(folder).summary
    print(f"{fold}, {name}: {result['metrics']['test/accuracy']:.1%}", file=sys.stderr, flush=True)
    return result


def nearest_accuracy(known: Recordings, tested: Recordings) -> float:
    """Accuracy of the label of the training sound whose coarse spectrum over time is nearest.

    The log-mel frames of each sound are averaged to ``STRETCHES`` parts of its length, less their mean and over their
    deviation.
    """
    known_NF, tested_NF = (coarse(element) for element in (known, tested))
    near = torch.cdist(tested_NF, known_NF).argmin(1).tolist()
    labels = [known.items[index].target for index in near]
    pairs = zip(labels, (item.target for item in tested.items), strict=True)
    return fmean(float(result == true) for result, true in pairs)


def coarse(sounds: Recordings) -> Tensor:
    """(N, F) spectra of sounds."""
    tokenizer = AudioConfig(type="audio", rate=8000, mels=BANDS).build()
    features = []
    for index in range(len(sounds)):
        x_TF = tokenizer([sounds[index].value]).x
        flat_F = functional.adaptive_avg_pool1d(x_TF.T, STRETCHES).flatten()
        features.append((flat_F - flat_F.mean()) / flat_F.std().clamp(min=1e-3))
    return torch.stack(features)


def neighbours(root: Path, fold: str) -> float:
    """The baseline on a fold. It knows all that is not tested on, validation too."""
    config = FsddConfig(type="fsdd", root=root, leave_out=None if fold == OFFICIAL else fold)
    train, val, test = (config.build(split) for split in ("train", "val", "test"))
    assert isinstance(train, Recordings) and isinstance(val, Recordings) and isinstance(test, Recordings)
    return nearest_accuracy(Recordings(Home(root), [*train.items, *val.items], train.classes), test)


def run(options: argparse.Namespace) -> Result:
    """Trains both on all folds, as many runs at a time as there are threads.

    Raises:
        UserError: the data is not there, or a run failed.
        CheckFailed: the contenders are not of one size.
    """
    data = os.environ.get("HRT_MM_DATA")
    if not data:
        raise UserError("HRT_MM_DATA is not set; name the folder that holds fsdd/index.tsv")
    if options.device.type != "cpu":
        raise UserError("this benchmark trains on one CPU thread each; add --device cpu")
    minutes = 0.01 if options.quick else options.minutes
    folds = SPEAKERS[:1] if options.quick else tuple(options.folds)
    with ExitStack() as stack:
        home = options.runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pool = stack.enter_context(ThreadPoolExecutor(max(1, torch.get_num_threads())))
        folds_of = {"hierarchy": folds, "flat": [fold for fold in folds if fold in options.control]}
        pending = {
            (fold, name): pool.submit(train, name, fold, minutes, home / f"{fold.split()[0]}-{name}")
            for name in CONFIGS
            for fold in folds_of[name]
        }
        results = {key: future.result() for key, future in pending.items()}
    rows = [
        _row(fold, {name: results[fold, name] for name in CONFIGS if (fold, name) in results}, Path(data) / "fsdd")
        for fold in folds
    ]
    sizes = [results[folds_of[name][0], name]["parameters"] for name in CONFIGS if folds_of[name]]
    difference = abs(sizes[-1] / sizes[0] - 1)
    if difference > TOLERANCE:
        raise CheckFailed(f"parameters differ by {difference:.1%}, more than {TOLERANCE:.0%}")
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"minutes": minutes, "configs": CONFIGS, "clock": "cpu", "threads_each": 1},
        checks={"parameters": difference},
        rows=rows,
        bars=[] if options.quick else _bars(rows, minutes),
        **environment(options.device),
    )


def _row(fold: str, summaries: dict[str, dict[str, Any]], root: Path) -> Row:
    contenders = {
        name: Measured(
            seconds=summary["seconds"],
            bytes=summary["peak_memory_bytes"],
            scores={
                "test/accuracy": summary["metrics"]["test/accuracy"],
                "parameters": summary["parameters"],
                "steps": summary["steps"],
            },
        )
        for name, summary in summaries.items()
    }
    contenders["nearest"] = Measured(seconds=None, scores={"test/accuracy": neighbours(root, fold)})
    steps = [summary["steps"] for summary in summaries.values()]
    sizes: dict[str, int | float | str] = {"fold": fold, "tested": summaries["hierarchy"]["counts"]["test"]}
    ratios = {"hierarchy/flat steps": steps[0] / max(1, steps[1])} if len(steps) == len(CONFIGS) else {}
    return Row(sizes=sizes, contenders=contenders, ratios=ratios)


def means(rows: list[Row], names: Sequence[str] = NAMES) -> dict[str, float]:
    """Mean accuracy of contenders over the speakers who were left out, as far as all of them were trained on."""
    left_out = [row for row in rows if row.sizes["fold"] != OFFICIAL and row.contenders.keys() >= set(names)]
    return {name: fmean(_accuracy(row, name) for row in left_out) for name in names} if left_out else {}


def _accuracy(row: Row, name: str) -> float:
    accuracy = row.contenders[name].scores["test/accuracy"]
    assert accuracy is not None
    return accuracy


def _bars(rows: list[Row], minutes: float) -> list[Bar]:
    official = [_accuracy(row, "hierarchy") for row in rows if row.sizes["fold"] == OFFICIAL]
    pairs = [(OFFICIAL, measured, GOALS[OFFICIAL]) for measured in official]
    if len(rows) - len(official) == len(SPEAKERS):
        speakers = means(rows, ["hierarchy"])["hierarchy"]
        pairs.append(("mean over unseen speakers", speakers, GOALS["speakers"]))
    return [
        Bar(
            claim=f"FSDD, {what}, {minutes:g} minutes on 1 thread",
            goal=f"{goal:.0%} or more",
            measured=f"{measured:.2%}",
            met=measured >= goal,
        )
        for what, measured, goal in pairs
    ]


def tables(result: Result) -> str:
    """The result as Markdown."""
    body = []
    for row in result.rows:
        fold = str(row.sizes["fold"])
        accuracies = [f"{_accuracy(row, name):.1%}" if name in row.contenders else "" for name in NAMES]
        body.append([fold if fold == OFFICIAL else f"all but {fold}, who is tested", *accuracies])
    titles = {"mean over these speakers": ("hierarchy", "nearest"), "where the control was trained": NAMES}
    for title, names in titles.items():
        if mean := means(result.rows, names):
            body.append([f"**{title}**", *(f"**{mean[name]:.1%}**" if name in mean else "" for name in NAMES)])
    facts = []
    for name, config in result.settings["configs"].items():
        own_rows = [row.contenders[name] for row in result.rows if name in row.contenders]
        if not own_rows:
            continue
        facts.append(
            [
                f"{name} (`{config}`)",
                f"{own_rows[0].scores['parameters']:,.0f}",
                f"{fmean(one.scores['steps'] or 0 for one in own_rows):,.0f}",
                f"{fmean(one.seconds or 0 for one in own_rows):,.0f}",
            ]
        )
    return "\n\n".join(
        [
            markdown(["trained on", "hierarchy", "flat", "nearest neighbour"], body),
            markdown(["contender", "parameters", "steps a run, mean", "seconds of computing a run"], facts),
        ]
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--minutes", type=float, default=8.0, help="of computing for each run; 8 when absent")
    folds = (OFFICIAL, *SPEAKERS)
    options.add_argument("--folds", nargs="+", choices=folds, default=folds, help="the official split and speakers")
    options.add_argument(
        "--control", nargs="*", choices=folds, default=folds, help="folds that the control is trained on"
    )
    options.add_argument("--runs", type=Path, metavar="DIR", help="keep runs here, and take those that are there")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
