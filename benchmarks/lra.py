"""Four tasks of Long Range Arena (arXiv 2011.04006): hierarchies within its budgets beside flat controls, by seeds.

Each task's configuration in ``configs/lra`` and its flat control, which has the same blocks, embedding and parameters
at one level with rotary positions, train by ``hrt-mm train`` for the same processor time on one thread (wall-clock time
on a GPU), from scratch, with the same data, batch and optimizer. The figure is the test accuracy of the weights that
were best on ``val``. The fifth task, retrieval of documents, is left out, since its data cannot be had; published means
are over the same four tasks.

ListOps and Pathfinder are generated (``--train`` and ``--test`` limit them, and with them the time that this takes;
``--test`` thins out the reviews as well). ``--batch`` and ``--warmup`` are for runs of minutes, where the
configurations' batches would leave few steps; both contenders take the same.
``HRT_MM_DATA`` names the folder that holds ``imdb/`` and ``cifar10/``; CIFAR-10's pictures are JPEG there, so figures
of Image are not quite comparable with published ones.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import UserError

from .command import main, parser, positive
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import flat, for_minutes, kept_or_trained
from .sentences import evenly_spaced

NAME = "lra"
BUDGETS = {"listops": 8.4e6, "text": 3.3e6, "image": 228e3, "pathfinder": 57e3}
"""Parameters of the published Transformer's blocks, embeddings and positions, by the sizes in its configurations (of
ListOps, blocks alone)."""
ALLOWED = 1.1
"""Times the budget that a model may have, as other entries of the table do."""
PUBLISHED = {
    "Transformer": (36.37, 64.27, 42.44, 71.40),
    "Transformer, tuned by FlashAttention's authors": (36.0, 63.6, 42.3, 72.7),
    "H-Transformer-1D": (49.53, 78.69, 46.05, 68.78),
    "S4": (59.60, 86.82, 88.65, 94.20),
    "MEGA": (63.14, 90.43, 90.44, 96.01),
}
"""Accuracies in percent on the tasks in the order of ``BUDGETS``."""
AIM = 60.8
"""Mean of H-Transformer-1D, in percent."""
CONTENDERS = ("hierarchy", "flat")
MAX_BYTES = 4000
HELD_OUT = 10
"""Of the training reviews and pictures, every tenth is for validation."""
QUICK = ["train.batch_size=4", "train.eval_every=1000000", "train.eval_batches=1", "optim.warmup_steps=1"]


def reviews(folder: Path, file: Path, test: int | None = None) -> None:
    """Writes IMDb's reviews as one table, each cut to the bytes that the task has.

    Args:
        folder: of ``train.jsonl`` and ``test.jsonl``.
        file: the table.
        test: test reviews, evenly spaced as they are sorted by class; all when absent.
    """
    with file.open("w", encoding="utf-8") as table:
        for split in ("train", "test"):
            lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").strip().split("\n")
            if split == "test" and test is not None:
                lines = evenly_spaced(lines, test)
            for number, line in enumerate(lines):
                entry = json.loads(line)
                text = entry["text"].encode()[:MAX_BYTES].decode(errors="ignore")
                side = "val" if split == "train" and number % HELD_OUT == 0 else split
                table.write(json.dumps({"text": text, "label": entry["label"], "split": side}) + "\n")


def unpacked(folder: Path, shards: Path) -> None:
    """Decompresses CIFAR-10's shards, the last of the training shards for validation."""
    shards.mkdir(parents=True)
    files = sorted(folder.glob("*.tar.gz"))
    last = max(file for file in files if file.name.startswith("train"))
    for file in files:
        name = file.name.removesuffix(".gz")
        target = shards / (name.replace("train", "val") if file == last else name)
        with gzip.open(file) as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain)


def configuration(task: str, home: Path, train: int | None = None, test: int | None = None) -> RunConfig:
    """A task's configuration with its data.

    Args:
        task: a key of ``BUDGETS``.
        home: folder for data that is converted.
        train: training samples of generated data; those of the task when absent.
        test: samples of generated data for validation and for the test, and test reviews; those of the task when
            absent.

    Raises:
        UserError: the task needs ``HRT_MM_DATA``, which is not set.
    """
    if task in ("listops", "pathfinder"):
        limits = {"train": train, "val": test, "test": test}
        return load_config(f"lra/{task}", [f"data.{key}={count}" for key, count in limits.items() if count is not None])
    if not os.environ.get("HRT_MM_DATA"):
        raise UserError(
            "HRT_MM_DATA is not set; name the folder that holds imdb/ and cifar10/, or choose other --tasks"
        )
    root = Path(os.environ["HRT_MM_DATA"])
    if task == "text":
        if not (table := home / f"imdb-{test or 'all'}.jsonl").exists():
            reviews(root / "imdb", table, test)
        return load_config("lra/text", [f"data.file={table}"])
    if not (shards := home / "cifar10").exists():
        unpacked(root / "cifar10", shards)
    return load_config("lra/image", [f"data.root={shards}"])


def run(options: argparse.Namespace) -> Result:
    """Trains what is not there, one run after another."""
    with tempfile.TemporaryDirectory() as scratch:
        home = (options.runs or Path(scratch)).resolve()
        home.mkdir(parents=True, exist_ok=True)
        rows = [_row(task, home, options) for task in options.tasks]
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={key: getattr(options, key) for key in ("minutes", "seeds", "train", "test", "batch", "warmup")},
        checks={},
        rows=rows,
        bars=[] if options.quick else bars(rows),
        **environment(options.device),
    )


def _row(task: str, home: Path, options: argparse.Namespace) -> Row:
    config = configuration(task, home, options.train, options.test)
    configs = {"hierarchy": config, "flat": flat(config)}
    seeds = 1 if options.quick else options.seeds
    contenders = {}
    for name in options.contenders:
        words = for_minutes(0.02 if options.quick else options.minutes, options.device)
        words += [] if options.batch is None else [f"train.batch_size={options.batch}"]
        words += [] if options.warmup is None else [f"optim.warmup_steps={options.warmup}"]
        words += QUICK if options.quick else []
        runs = [
            kept_or_trained(configs[name], home / f"{task}-{name}-{seed}", [*words, f"train.seed={seed}"]).summary
            for seed in range(seeds)
        ]
        accuracies = [float(summary["metrics"]["test/accuracy"]) for summary in runs]
        contenders[name] = Measured(
            seconds=statistics.fmean(summary["seconds"] / summary["steps"] for summary in runs),
            bytes=max(summary["peak_memory_bytes"] for summary in runs),
            scores={
                "accuracy": statistics.fmean(accuracies),
                "least": min(accuracies),
                "most": max(accuracies),
                "parameters": float(runs[0]["parameters"]),
                "steps": statistics.fmean(summary["steps"] for summary in runs),
            },
        )
    ratios = {}
    if len(contenders) == len(CONTENDERS):
        ratios["flat/hierarchy seconds a step"] = (contenders["flat"].seconds or 0) / (
            contenders["hierarchy"].seconds or 1
        )
    return Row(sizes={"task": task}, contenders=contenders, ratios=ratios)


def mean(rows: Sequence[Row], contender: str) -> float | None:
    """Mean accuracy of a contender over the four tasks; ``None`` where one is missing."""
    figures = [row.contenders[contender].scores["accuracy"] for row in rows if contender in row.contenders]
    finite = [figure for figure in figures if figure is not None]
    return statistics.fmean(finite) if len(finite) == len(BUDGETS) else None


def bars(rows: Sequence[Row]) -> list[Bar]:
    """The goals."""
    goals = []
    for row in rows:
        if set(CONTENDERS) <= set(row.contenders):
            ours, control = (row.contenders[name].scores for name in CONTENDERS)
            assert ours["accuracy"] is not None and control["accuracy"] is not None
            difference = 100 * (ours["accuracy"] - control["accuracy"])
            claim = f"{row.sizes['task']}: hierarchy over flat at equal time"
            goals.append(Bar(claim=claim, goal="above 0", measured=f"{difference:+.1f} points", met=difference > 0))
    if (figure := mean(rows, "hierarchy")) is not None:
        goals.append(
            Bar(claim="mean of four tasks", goal=f"above {AIM}", measured=f"{100 * figure:.1f}", met=100 * figure > AIM)
        )
    return goals


def tables(result: Result) -> str:
    """The result as Markdown."""
    tasks = {str(row.sizes["task"]): row for row in result.rows}
    body = []
    for name in CONTENDERS:
        cells = []
        for task in BUDGETS:
            one = tasks[task].contenders.get(name) if task in tasks else None
            cells.append("-" if one is None else _spread(one, result.settings["seeds"]))
        average = mean(result.rows, name)
        body.append([name, *cells, "-" if average is None else f"{100 * average:.1f}"])
    for name, figures in PUBLISHED.items():
        body.append(
            [f"{name}, published", *(f"{figure:.1f}" for figure in figures), f"{statistics.fmean(figures):.1f}"]
        )
    costs = [
        [
            task,
            name,
            f"{one.scores['parameters'] or 0:,.0f}",
            f"{one.scores['steps'] or 0:,.0f}",
            f"{1000 * (one.seconds or 0):.0f}",
            f"{(one.bytes or 0) / 2**20:,.0f}",
        ]
        for task, row in tasks.items()
        for name, one in row.contenders.items()
    ]
    minutes, seeds = result.settings["minutes"], result.settings["seeds"]
    return "\n\n".join(
        [
            f"Test accuracy in percent after {minutes:g} minutes, {seeds} seed(s), least to most in brackets:",
            markdown(["model", *BUDGETS, "mean"], body),
            markdown(["task", "model", "parameters", "steps", "ms a step", "peak memory of the process, MiB"], costs),
        ]
    )


def _spread(one: Measured, seeds: int) -> str:
    accuracy, least, most = (100 * (one.scores[key] or 0) for key in ("accuracy", "least", "most"))
    return f"{accuracy:.1f}" + (f" ({least:.1f} to {most:.1f})" if seeds > 1 else "")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--tasks", nargs="+", choices=list(BUDGETS), default=list(BUDGETS), help="all when absent")
    options.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="both when absent"
    )
    options.add_argument("--minutes", type=float, default=30.0, help="of each run; 30 when absent")
    options.add_argument("--seeds", type=positive, default=3, help="runs of each contender; 3 when absent")
    options.add_argument(
        "--train", type=positive, help="training samples of generated data; those of the task if absent"
    )
    options.add_argument(
        "--test", type=positive, help="test samples of all tasks but Image; those of the task if absent"
    )
    options.add_argument("--batch", type=positive, help="samples a step; those of the configurations if absent")
    options.add_argument("--warmup", type=positive, help="steps; those of the configurations if absent")
    options.add_argument("--runs", type=Path, help="folder of the runs, which keeps them; finished ones are not redone")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
