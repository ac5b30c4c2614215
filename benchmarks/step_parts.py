"""Where the time of a training step goes, for a packaged configuration of each modality and its flat control.

Each trains by :func:`hrt_mm.train.train` for some steps after the first ones, with nothing changed but what would write
files or end the run early. Clocks are read where a step passes from one part to the next, in hooks of the model and the
optimizer: processor time of one thread on a CPU, so that other processes do not count, and wall-clock time of a
synchronized device on a GPU. The figures are medians over the steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.train import train
from hrt_mm.train.callbacks import Callback, CallbackRun

from .command import main, parser, positive
from .markdown import markdown
from .results import Measured, Result, Row, environment
from .runs import flat, written

NAME = "step_parts"
CONFIGS: Mapping[str, tuple[str, ...]] = {
    "text/quickstart": (),
    "vision/digits": (),
    "audio/synthetic": (),
    "video/actions": ("data.train=64", "data.valid=8", "data.test=8"),
}
"""Configurations, with what limits their generated data."""
PARTS = ("data", "embedding", "blocks", "between levels", "heads", "backward", "optimizer", "rest")
"""``data``: reading, tokenizing and batching. ``blocks``: those of all levels. ``between levels``: the rest of the
hierarchy, which is pooling, cross-scale attention, and plans that were not made ahead. ``heads``: with losses.
``backward``: with gradient clipping and the reading of the loss. ``rest``: averages of weights, metrics and logs."""
FIRST_STEPS = 5
"""Steps before the measured ones."""
UNWRITTEN = ("train.save_every=null", "train.tensorboard=false", "train.test=false", "train.time_limit=null")


class StepClock(Callback):
    """Reads the clock between the parts of each step.

    Args:
        device: where the model runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps: list[dict[str, float]] = []
        self.tokens: list[int] = []
        self._step: dict[str, float] = defaultdict(float)
        self._last = 0.0

    def now(self) -> float:
        """Seconds."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def on_start(self, run: CallbackRun) -> None:
        """Places the hooks."""
        self._time(run.task, "data", "heads")
        for name, module in run.task.named_modules():
            if isinstance(module, Hierarchy):
                self._time(module, "heads", "between levels")
                for stage in module.stages:
                    self._time(stage, "between levels", "blocks")
            elif name.endswith("embedding"):
                self._time(module, "heads", "embedding")
        run.optimizer.register_step_pre_hook(lambda *_: self._end("backward"))
        run.optimizer.register_step_post_hook(lambda *_: self._end("optimizer"))
        self._last = self.now()

    def on_step(self, run: CallbackRun) -> None:
        """Ends a step."""
        self._end("rest")
        self.steps.append(dict(self._step))
        self._step.clear()
        self._last = self.now()

    def _end(self, part: str) -> None:
        """Adds the time since the last reading to a part."""
        now = self.now()
        self._step[part] += now - self._last
        self._last = now

    def _time(self, module: nn.Module, before: str, inside: str) -> None:
        """Time up to the module's call is of one part, and time in it, but for that of modules within, of another."""
        module.register_forward_pre_hook(lambda *_: self._end(before))
        module.register_forward_hook(lambda *_: self._end(inside))

    def medians(self) -> dict[str, float]:
        """Milliseconds of each part, and of the step, by the steps after the first ones."""
        measured = self.steps[FIRST_STEPS:]
        parts = {part: 1e3 * statistics.median(step.get(part, 0.0) for step in measured) for part in PARTS}
        return parts | {"step": 1e3 * statistics.median(sum(step.values()) for step in measured)}


def profiled(config: RunConfig, device: torch.device, overrides: list[str]) -> StepClock:
    """Trains a configuration with a clock."""
    clock = StepClock(device)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        made = load_config(written(config, file), [f"run.dir={folder}/run", *overrides])
        train(made, callbacks=[clock])
    return clock


def run(options: argparse.Namespace) -> Result:
    """Profiles the configurations, one after another."""
    steps = 2 if options.quick else options.steps
    overrides = [
        f"train.steps={FIRST_STEPS + steps}", "optim.warmup_steps=1", "train.eval_every=null",
        "train.early_stopping=null", "train.monitor=null", f"train.device={options.device.type}",
        "train.workers=0", *UNWRITTEN,
    ]  # fmt: skip
    rows = [_row(name, options.device, overrides) for name in options.configs]
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"steps": steps},
        checks={},
        rows=rows,
        **environment(options.device),
    )


def _row(name: str, device: torch.device, overrides: list[str]) -> Row:
    config = load_config(name, list(CONFIGS[name]))
    made: Mapping[str, Callable[[], RunConfig]] = {"hierarchy": lambda: config, "flat": lambda: flat(config)}
    contenders = {}
    for contender, build in made.items():
        medians = profiled(build(), device, overrides).medians()
        contenders[contender] = Measured(seconds=medians["step"] / 1e3, scores=dict(medians))
        print(f"{name}, {contender}: {medians['step']:.1f} ms a step", file=sys.stderr, flush=True)
    ratio = (contenders["flat"].seconds or 0) / (contenders["hierarchy"].seconds or 1)
    return Row(sizes={"config": name}, contenders=contenders, ratios={"flat/hierarchy": ratio})


def tables(result: Result) -> str:
    """The result as Markdown."""
    body = []
    for row in result.rows:
        for contender, measured in row.contenders.items():
            total = measured.scores["step"] or 1.0
            shares = [(measured.scores[part] or 0.0) / total for part in PARTS]
            body.append([str(row.sizes["config"]), contender, f"{total:.1f}", *(f"{share:.0%}" for share in shares)])
    return (
        f"Medians over {result.settings['steps']} steps; parts in percent of the step:\n\n"
        f"{markdown(['configuration', 'model', 'ms a step', *PARTS], body)}"
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--configs", nargs="+", choices=list(CONFIGS), default=list(CONFIGS), help="all when absent")
    options.add_argument("--steps", type=positive, default=40, help="measured steps; 40 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
