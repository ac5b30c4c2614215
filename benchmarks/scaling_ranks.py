"""Training on several ranks: tokens per second, and memory of each rank, by ``train.parallel``.

Every run is ``hrt_mm``'s own training under torchrun, of a language model over bytes (``text/quickstart``) in two
sizes, with the same batches on any number of ranks. Losses of the last step must be equal to those of one rank before
anything is reported. Ranks on a CPU have one thread each and talk through gloo, on a GPU through NCCL.

Memory is what a rank holds at its peak in the steps after the first, beyond what it held before it built the model: of
the rank that holds most. Where a machine has fewer processors than ranks, these take turns, so wall time says little;
tokens per processor second, over the processors of all ranks together, shows what communication and waiting cost.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import UserError
from hrt_mm.train.callbacks import Callback, CallbackRun
from hrt_mm.train.loop import train

from .checks import CheckFailed
from .command import main, numbers, parser, positive
from .markdown import markdown, mebibytes, times
from .memory import EXACT, _status
from .results import Measured, Result, Row, environment
from .runs import written

NAME = "scaling_ranks"
LOSS_BOUND = 1e-3
"""Relative difference of the last loss from that of one rank."""
SMALL = ["model.levels.0.dim=192", "model.levels.1.dim=320"]
LARGE = [
    "model.levels.0.dim=384", "model.levels.0.heads=6", "model.levels.0.depth=2",
    "model.levels.1.dim=768", "model.levels.1.heads=12", "model.levels.1.depth=8",
]  # fmt: skip
MODELS = {"small": SMALL, "large": LARGE}
TINY = ["model.levels.0.dim=48", "model.levels.1.dim=64", "model.levels.1.heads=4", "model.levels.1.depth=2"]


def modes(ranks: int) -> tuple[str, ...]:
    """The ways to share a model among some ranks."""
    if ranks == 1:
        return ("single",)
    return ("ddp", "fsdp2", "hsdp") if ranks >= 4 else ("ddp", "fsdp2")


class StepMeter(Callback):
    """Time of every step on this rank, and its memory in the steps after the first.

    Args:
        device: of this rank.
        held: bytes that the process held before it built anything.
    """

    def __init__(self, device: str, held: int) -> None:
        self.device, self.held, self.peak, self.start = device, held, 0, 0
        self.wall: list[float] = []
        self.processor: list[float] = []

    def on_step(self, run: CallbackRun) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.wall.append(time.perf_counter())
        self.processor.append(time.process_time())
        if self.device == "cuda":
            self.peak = torch.cuda.max_memory_allocated()
        else:
            self.peak = max(0, _status("VmHWM") - self.held)
        if len(self.wall) == 1:
            # Optimizer state is there now; what building the model took is counted apart.
            self.start = self.peak
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            else:
                Path("/proc/self/clear_refs").write_text("5")

    def record(self) -> dict[str, Any]:
        """What was measured, without the first two steps, which warm up."""
        steps = {
            name: [after - before for before, after in pairwise(clock[1:])]
            for name, clock in (("wall", self.wall), ("processor", self.processor))
        }
        return {**steps, "bytes": self.peak, "start_bytes": self.start}


def run_rank(config: RunConfig, out: Path) -> None:
    """Trains on this rank, under torchrun, and writes what it measured."""
    gc.collect()
    held = 0
    if config.train.device == "cpu":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        held = _status("VmRSS")
    meter = StepMeter(config.train.device, held)
    train(config, callbacks=[meter])
    (out / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(meter.record()))


def measure(config: RunConfig, folder: Path, ranks: int) -> tuple[Measured, float, int]:
    """Trains on some ranks.

    Returns:
        What was measured, the last loss, and the number of parameters.

    Raises:
        UserError: the run failed; gives its last words.
    """
    folder.mkdir(parents=True)
    file = written(config, folder / "config.yaml")
    words = ["--standalone", "--nproc-per-node", str(ranks), "-m", f"benchmarks.{NAME}", "rank", str(file), str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words], capture_output=True, text=True, check=False,
        env=os.environ | EXACT | {"OMP_NUM_THREADS": "1"}, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"{ranks} ranks with train.parallel {config.train.parallel} failed:\n{done.stderr[-2000:]}")
    records = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "train/loss" in line]
    tokens = (losses[-1]["tokens"] - losses[0]["tokens"]) / (len(losses) - 1)
    seconds = [max(each) for each in zip(*(record["wall"] for record in records), strict=True)]
    processor = [sum(each) for each in zip(*(record["processor"] for record in records), strict=True)]
    first, median, third = statistics.quantiles(seconds, n=4)
    scores = {
        "tokens_per_second": tokens / median,
        "tokens_per_processor_second": tokens / statistics.median(processor),
        "start_bytes": float(max(record["start_bytes"] for record in records)),
    }
    peak = max(record["bytes"] for record in records)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    measured = Measured(seconds=median, quartiles=(first, third), bytes=peak, scores=scores)
    return measured, float(losses[-1]["train/loss"]), int(summary["parameters"])


def run(options: argparse.Namespace) -> Result:
    """Measures both sizes on every number of ranks."""
    if options.device.type == "cpu" and not Path("/proc/self/clear_refs").exists():
        raise UserError("memory of ranks on a CPU is measured through /proc, which is not here; run on Linux")
    counts = options.ranks or ((1, 2) if options.quick else (1, 2, 4))
    if options.device.type == "cuda":
        counts = tuple(count for count in counts if count <= torch.cuda.device_count())
    steps = options.steps or (4 if options.quick else 12)
    context = options.context or (128 if options.quick else 512)
    settings = {"steps": steps, "batch_size": options.batch, "context": context, "ranks": counts}
    models = {"tiny": TINY} if options.quick else {name: MODELS[name] for name in options.models}
    rows, checks = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, model in models.items():
            alone: tuple[Measured, float] | None = None
            for count in counts:
                contenders = {}
                for mode in modes(count):
                    folder = Path(scratch) / f"{name}-{count}-{mode}"
                    options_of_training = {
                        "steps": steps, "batch_size": settings["batch_size"], "eval_every": None, "test": False,
                        "save_every": None, "log_every": 1, "tensorboard": False, "precision": "fp32", "num_threads": 1,
                        "device": options.device.type, "parallel": "auto" if mode == "single" else mode,
                        "shard_size": 2 if mode == "hsdp" else None,
                    }  # fmt: skip
                    config = load_config("text/quickstart", [
                        *model, f"data.context={settings['context']}", f"run.dir={folder / 'run'}",
                        f"train={json.dumps(options_of_training)}",
                    ])  # fmt: skip
                    contenders[mode], loss, parameters = measure(config, folder, count)
                    alone = alone or (contenders[mode], loss)
                    difference = abs(loss - alone[1]) / abs(alone[1])
                    checks[f"{name}, {count} ranks, {mode}: last loss"] = difference
                    if not difference <= LOSS_BOUND:
                        raise CheckFailed(f"{name}, {count} ranks, {mode}: the last loss is {loss}, alone {alone[1]}")
                assert alone is not None
                sizes = {"model": name, "parameters": parameters, "ranks": count}
                rows.append(Row(sizes=sizes, contenders=contenders, ratios=ratios(contenders, alone[0])))
                print(f"{sizes}: {rows[-1].ratios}", file=sys.stderr, flush=True)
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings=settings,
        checks=checks,
        rows=rows,
        details={"processors": os.cpu_count()},
        **environment(options.device),
    )


def ratios(contenders: dict[str, Measured], alone: Measured) -> dict[str, float]:
    """Speed and memory of each contender over those of one rank."""
    relative = {}
    for mode, measured in contenders.items():
        for key in ("tokens_per_second", "tokens_per_processor_second"):
            mine, other = measured.scores[key], alone.scores[key]
            assert mine is not None and other
            relative[f"{mode}/single {key}"] = mine / other
        if measured.bytes and alone.bytes:
            relative[f"{mode}/single bytes"] = measured.bytes / alone.bytes
    return relative


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = [
        "model", "parameters", "ranks", "`train.parallel`", "step, s", "tokens/s", "over 1 rank",
        "tokens per processor s", "over 1 rank", "MiB a rank", "over 1 rank", "MiB at the start",
    ]  # fmt: skip
    body = []
    for row in result.rows:
        for mode, measured in row.contenders.items():
            body.append(
                [
                    str(row.sizes["model"]),
                    f"{row.sizes['parameters']:,}",
                    str(row.sizes["ranks"]),
                    mode,
                    f"{measured.seconds:.2f}" if measured.seconds is not None else "",
                    f"{measured.scores['tokens_per_second']:,.0f}",
                    times(row.ratios.get(f"{mode}/single tokens_per_second")),
                    f"{measured.scores['tokens_per_processor_second']:,.0f}",
                    times(row.ratios.get(f"{mode}/single tokens_per_processor_second")),
                    mebibytes(measured.bytes),
                    times(row.ratios.get(f"{mode}/single bytes")),
                    mebibytes(int(measured.scores["start_bytes"] or 0)),
                ]
            )
    largest = max(result.checks.values())
    note = f"{result.details['processors']} processors. Losses of the last step differ by {largest:.1e} at most."
    return f"{note}\n\n{markdown(head, body)}"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--ranks", type=numbers, help="numbers of ranks, 1 first: 1,2,4 when absent")
    options.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="sizes: both when absent")
    options.add_argument("--batch", type=positive, default=8, help="sequences a step, over all ranks: 8 when absent")
    options.add_argument("--context", type=positive, help="bytes of a sequence: 512 when absent")
    options.add_argument("--steps", type=positive, help="steps of each run: 12 when absent")
    return options


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        torch.set_num_threads(1)
        run_rank(load_config(Path(sys.argv[2])), Path(sys.argv[3]))
        sys.exit()
    sys.exit(main(arguments(), run, tables))
