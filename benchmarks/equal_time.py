"""Accuracy at equal time: a hierarchy and its flat control, trained by the project's own command on the same data.

Both run side by side for the same wall-clock minutes, each on its half of the threads, with equal parameters, stem,
optimizer, batch and augmentation; schedules follow the time that is gone. The data is real: ``HRT_MM_DATA`` names the
folder that torchvision's MNIST reads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from hrt_mm.core.errors import UserError

from .checks import CheckFailed
from .command import main, parser
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment

NAME = "equal_time"
CONTENDERS = {"hierarchy": "vision/mnist", "flat": "vision/mnist_flat"}
GOAL = 0.99
"""Accuracy on the official test set that the hierarchy must reach."""
TOLERANCE = 0.01
"""How far the contenders' parameters may differ."""


def start(config: str, folder: Path, minutes: float, threads: int, device: str) -> subprocess.Popen[bytes]:
    """Starts a training run; its words go to ``train.log`` beside the run folder."""
    overrides = [f"run.dir={folder}", f"train.time_limit={minutes}", f"train.num_threads={threads}"]
    overrides += [f"train.device={device}", "train.tensorboard=false"]
    with folder.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "hrt_mm", "train", config, *overrides],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )


def run(options: argparse.Namespace) -> Result:
    """Trains both at once.

    Raises:
        UserError: the data is not there, or a run failed; gives its last words.
        CheckFailed: the contenders are not of one size.
    """
    if not os.environ.get("HRT_MM_DATA"):
        raise UserError("HRT_MM_DATA is not set; name the folder that holds MNIST/ in torchvision's layout")
    minutes = 0.1 if options.quick else options.minutes
    threads = max(1, torch.get_num_threads() // 2)
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: Path(folder) / name for name in CONTENDERS}
        started = {
            name: start(config, runs[name], minutes, threads, options.device.type)
            for name, config in CONTENDERS.items()
        }
        for name, process in started.items():
            if process.wait() != 0:
                words = runs[name].with_suffix(".log").read_text().strip().splitlines()[-3:]
                raise UserError(f"the run of {name} failed: {' '.join(words)}")
        summaries = {name: json.loads((path / "summary.json").read_text()) for name, path in runs.items()}
    difference = abs(summaries["flat"]["parameters"] / summaries["hierarchy"]["parameters"] - 1)
    if difference > TOLERANCE:
        raise CheckFailed(f"parameters differ by {difference:.1%}, more than {TOLERANCE:.0%}")
    row = _row(summaries, minutes, threads)
    accuracy = summaries["hierarchy"]["metrics"]["test/accuracy"]
    bar = Bar(
        claim=f"MNIST, official test set, {minutes:g} minutes on {threads} thread(s)",
        goal=f"{GOAL:.1%} or more",
        measured=f"{accuracy:.2%}",
        met=accuracy >= GOAL,
    )
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"minutes": minutes, "threads_each": threads, "configs": CONTENDERS},
        checks={"parameters": difference},
        rows=[row],
        bars=[] if options.quick else [bar],
        **environment(options.device),
    )


def _row(summaries: dict[str, dict[str, Any]], minutes: float, threads: int) -> Row:
    contenders = {
        name: Measured(
            seconds=summary["seconds"],
            bytes=summary["peak_memory_bytes"],
            scores={
                "test/accuracy": summary["metrics"]["test/accuracy"],
                "test/errors": round((1 - summary["metrics"]["test/accuracy"]) * summary["counts"]["test"]),
                "parameters": summary["parameters"],
                "steps": summary["steps"],
                "samples": summary["samples"],
            },
        )
        for name, summary in summaries.items()
    }
    hierarchy, flat = (contenders[name].scores for name in CONTENDERS)
    ratios = {
        "hierarchy/flat steps": _ratio(hierarchy["steps"], flat["steps"]),
        "flat/hierarchy errors": _ratio(flat["test/errors"], hierarchy["test/errors"]),
    }
    sizes: dict[str, int | float | str] = {"dataset": "MNIST", "minutes": minutes, "threads": threads}
    return Row(sizes=sizes, contenders=contenders, ratios={key: value for key, value in ratios.items() if value})


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["MNIST", "parameters", "steps", "seconds", "test accuracy", "errors of 10,000"]
    body = []
    for name, measured in result.rows[0].contenders.items():
        scores = measured.scores
        body.append(
            [
                f"{name} (`{result.settings['configs'][name]}`)",
                f"{scores['parameters']:,.0f}",
                f"{scores['steps']:,.0f}",
                f"{measured.seconds:,.0f}",
                f"{scores['test/accuracy']:.2%}",
                f"{scores['test/errors']:,.0f}",
            ]
        )
    return markdown(head, body)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--minutes", type=float, default=15.0, help="wall-clock time of both runs; 15 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
