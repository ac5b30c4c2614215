"""What pooling forgets: associative recall by pooling and stride, beside flat controls, and what each costs.

Part ``recall``: the configuration ``text/recall`` trains by ``hrt-mm train`` on sequences of key-value pairs with
queries after them (multi-query associative recall, arXiv 2312.04927), and tags each query with the value of its key.
Contenders differ in pooling, stride, and in whether tokens also attend to the coarse level (``cross_scale.down``).
``flat`` is the flat control of the first of them: one level with rotary positions, the same blocks, and attention to
everything. ``window`` is the same with the window of the hierarchy's finest level, so most queries see no pair at
once. All train for the same processor time on one thread (wall-clock time on a GPU), with the same data, batch and
optimizer. The figure is the accuracy on the queries of the test split, of the last weights.

Part ``costs``: processor time (wall-clock time on a GPU) and peak memory of one training step over one long sequence.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.pooling import POOLINGS
from hrt_mm.train.build import build_data, build_task

from .command import main, numbers, parser, positive
from .markdown import markdown, mebibytes, times
from .memory import Prepared, Sizes, peak_bytes
from .results import Measured, Result, Row, environment
from .runs import flat, for_minutes, kept_or_trained
from .steps import prepared

NAME = "recall"
CONFIG = "text/recall"
PARTS = ("recall", "costs")
CONTROLS = ("flat", "window")
DOWN = " + down"
QUICK = ["train.eval_batches=1", "train.batch_size=4", "data.val=8", "data.test=8"]
ROUNDS, ENOUGH = 3, 10.0
"""Steps that are timed, and the processor seconds after which no further one is."""


def configuration(contender: str, words: list[str], first: str) -> RunConfig:
    """The run of a contender.

    Args:
        contender: ``flat``, ``window``, or a pooling and a stride, such as ``mean/4``, with ``DOWN`` or without.
        words: overrides that all contenders have.
        first: the contender whose controls ``flat`` and ``window`` are.
    """
    if contender in CONTROLS:
        hierarchy = configuration(first, words, first)
        control = flat(hierarchy)
        if contender == "flat":
            return control
        fine, model = hierarchy.single.model.levels[0], control.single.model
        windowed = {"window": fine.window, "window_type": fine.window_type}
        level = model.levels[0].model_copy(update=windowed)
        return control.with_model(model.model_copy(update={"levels": (level,)}))
    pool, stride = contender.removesuffix(DOWN).split("/")
    down = ["model.cross_scale.down=true"] if contender.endswith(DOWN) else []
    return load_config(CONFIG, [*words, f"model.levels.0.pool={pool}", f"model.levels.0.group.stride={stride}", *down])


def task_words(options: argparse.Namespace) -> list[str]:
    """Overrides of the sequences and the widths."""
    words = {"pairs": options.pairs, "keys": options.symbols, "values": options.symbols, "fillers": options.symbols}
    chosen = [f"data.{key}={value}" for key, value in words.items()]
    if options.width:
        chosen += [f"model.levels.{level}.dim={options.width}" for level in (0, 1)]
    return chosen


def run(options: argparse.Namespace) -> Result:
    """Trains what is not there, one run after another, and measures steps."""
    with tempfile.TemporaryDirectory() as scratch:
        home = (options.runs or Path(scratch)).resolve()
        home.mkdir(parents=True, exist_ok=True)
        rows = []
        if "recall" in options.parts:
            rows += [_recall(length, home, options) for length in options.lengths]
        if "costs" in options.parts:
            rows += [_costs(length, options) for length in options.cost_lengths]
    settings = {
        "minutes": options.minutes,
        "seeds": options.seeds,
        "pairs": options.pairs,
        "symbols": options.symbols,
        "width": options.width,
        "words": options.words,
        "batch": load_config(CONFIG, options.words).train.batch_size,
    }
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings=settings,
        checks={},
        rows=rows,
        **environment(options.device),
    )


def _recall(length: int, home: Path, options: argparse.Namespace) -> Row:
    words = [*task_words(options), f"data.length={length}", *options.words, *(QUICK if options.quick else [])]
    limits = for_minutes(0.005 if options.quick else options.minutes, options.device)
    contenders = {}
    for name in options.contenders:
        config = configuration(name, words, _first(options))
        runs = []
        for seed in range(options.seeds):
            folder = home / f"{length}-{name.replace('/', '-').replace(DOWN, '-down')}-{seed}"
            overrides = [*limits, "train.eval_every=1000000", f"train.seed={seed}"]
            runs.append(kept_or_trained(config, folder, overrides).summary)
        accuracies = [float(summary["metrics"]["test/accuracy"]) for summary in runs]
        contenders[name] = Measured(
            seconds=statistics.fmean(summary["seconds"] / summary["steps"] for summary in runs),
            scores={
                "accuracy": statistics.fmean(accuracies),
                "least": min(accuracies),
                "most": max(accuracies),
                "parameters": float(runs[0]["parameters"]),
                "steps": statistics.fmean(summary["steps"] for summary in runs),
            },
        )
    return Row(sizes={"part": "recall", "tokens": length}, contenders=contenders, ratios={})


def _first(options: argparse.Namespace) -> str:
    """The hierarchy that the controls are those of."""
    return next((name for name in options.contenders if name not in CONTROLS), "mean/4")


def _costs(length: int, options: argparse.Namespace) -> Row:
    settings = {
        "device": options.device.type,
        "memory": options.memory,
        "threads": torch.get_num_threads(),
        "words": [*task_words(options), *options.words],
        "first": _first(options),
    }
    sizes: Sizes = {"part": "costs", "tokens": length}
    contenders = {}
    for name in options.contenders:
        seconds = _seconds(prepare(name, sizes, settings).call, options.device)
        memory = peak_bytes(NAME, prepare, name, sizes, {"tokens": 128}, settings)
        contenders[name] = Measured(
            seconds=seconds,
            bytes=memory.peak if memory is not None else None,
            held_bytes=memory.held if memory is not None else None,
        )
    base = contenders["flat"].seconds if "flat" in contenders else None
    ratios = {
        f"flat/{name} seconds": base / one.seconds
        for name, one in contenders.items()
        if base and one.seconds and name != "flat"
    }
    return Row(sizes=sizes, contenders=contenders, ratios=ratios)


def prepare(contender: str, sizes: Sizes, settings: Mapping[str, Any]) -> Prepared:
    """A training step over one sequence.

    Args:
        contender: which one.
        sizes: ``tokens`` of the sequence.
        settings: ``device``, ``words`` and ``first``, as :func:`configuration` takes them.
    """
    words = [*settings["words"], f"data.length={sizes['tokens']}", "data.train=1"]
    config = configuration(contender, words, settings["first"])
    data = build_data(config, ["train"])
    torch.manual_seed(0)
    device = torch.device(settings["device"])
    task = build_task(config, data.tokenizers, data.classes).to(device)
    batch = data.maker(config, "train").collator([data.splits["train"][0]]).to(device)
    return prepared(lambda: task(batch).loss, task, 8 * int(sizes["tokens"]), "training", "float32")


def _seconds(call: Any, device: torch.device) -> float:
    """Median seconds of a few calls: of the processor on a CPU, since other work may share it."""

    def once() -> float:
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - start

    # The first call loads kernels. Where it takes long, that is lost in it, and no second one is made.
    measured = once()
    if measured > ENOUGH:
        return measured
    rounds = [once()]
    while len(rounds) < ROUNDS and sum(rounds) < ENOUGH:
        rounds.append(once())
    return statistics.median(rounds)


def tables(result: Result) -> str:
    """The result as Markdown."""
    parts = []
    chosen = result.settings
    for row in result.rows:
        if row.sizes["part"] == "recall":
            parts += [
                f"Accuracy in percent on queries, {row.sizes['tokens']} tokens with {chosen['pairs']} pairs (guessing "
                f"among a sequence's values: about {100 / chosen['pairs']:.1f}), after {60 * chosen['minutes']:g} s "
                f"of training, batches of {chosen['batch']}, mean of {chosen['seeds']} seed(s) (least to most):",
                _recall_table(row),
            ]
    if costs := [row for row in result.rows if row.sizes["part"] == "costs"]:
        parts += ["A training step over one sequence; times as fast as `flat` in brackets:", _cost_table(costs)]
    return "\n\n".join(parts)


def _recall_table(row: Row) -> str:
    body = []
    for name, one in row.contenders.items():
        values = {key: float(value or 0) for key, value in one.scores.items()}
        accuracy, least, most = (100 * values[key] for key in ("accuracy", "least", "most"))
        body.append(
            [
                name,
                f"{accuracy:.1f} ({least:.1f} to {most:.1f})",
                f"{values['steps']:,.0f}",
                f"{1000 * (one.seconds or 0):.0f}",
                f"{values['parameters']:,.0f}",
            ]
        )
    return markdown(["contender", "accuracy", "steps", "ms a step", "parameters"], body)


def _cost_table(rows: list[Row]) -> str:
    measured = any(one.bytes is not None for row in rows for one in row.contenders.values())
    head = ["contender"]
    for row in rows:
        head += [f"{row.sizes['tokens']:,} tokens, ms", *(["MiB"] if measured else [])]
    body = []
    for name in rows[0].contenders:
        cells = [name]
        for row in rows:
            one, ratio = row.contenders[name], row.ratios.get(f"flat/{name} seconds")
            cells.append(f"{1000 * (one.seconds or 0):,.0f}" + (f" ({times(ratio)})" if ratio else ""))
            cells += [mebibytes(one.bytes)] if measured else []
        body.append(cells)
    return markdown(head, body)


def _contenders(text: str) -> list[str]:
    """Names with commas between, for argparse."""
    names = [part.strip() for part in text.split(",")]
    for name in names:
        pool, _, stride = name.removesuffix(DOWN).partition("/")
        if name not in CONTROLS and (pool not in POOLINGS or not stride.isdecimal() or int(stride) < 2):
            raise argparse.ArgumentTypeError(
                f"{name!r} is not one of {', '.join(CONTROLS)}, nor a pooling ({', '.join(sorted(POOLINGS))}) with a "
                f"stride of 2 or more, such as mean/4 or mean/4{DOWN}"
            )
    return names


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    every = [f"{pool}/{stride}" for stride in (4, 8, 16) for pool in sorted(POOLINGS)]
    down = [f"mean/{stride}{DOWN}" for stride in (4, 8, 16)]
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="both when absent")
    options.add_argument(
        "--contenders",
        type=_contenders,
        default=[*CONTROLS, *every, *down],
        help=f"with commas between: flat, window, mean/4, mean/4{DOWN}; all poolings and strides when absent",
    )
    options.add_argument("--lengths", type=numbers, default=(256, 1024), help="of training; 256,1024 when absent")
    options.add_argument(
        "--cost-lengths", type=numbers, default=(1024, 4096, 16384), help="of costs; 1024,4096,16384 when absent"
    )
    options.add_argument("--pairs", type=positive, default=16, help="in a sequence, as many as queries; 16 when absent")
    options.add_argument("--symbols", type=positive, default=64, help="keys, values, and fillers; 64 when absent")
    options.add_argument("--width", type=positive, help="of both levels; those of the configuration when absent")
    options.add_argument("--words", nargs="*", default=[], help="further overrides of all contenders")
    options.add_argument("--minutes", type=float, default=1.0, help="of each run; 1 when absent")
    options.add_argument("--seeds", type=positive, default=2, help="runs of each contender; 2 when absent")
    options.add_argument("--runs", type=Path, help="folder of the runs, which keeps them; finished ones are not redone")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
