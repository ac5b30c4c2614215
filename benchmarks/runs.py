"""Training runs as contenders: the project's own command in a process of its own, for equal time, and what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hrt_mm.analysis.control import flat_control
from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import UserError
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.tasks.ctc.task import CTCConfig
from hrt_mm.train.build import build_task, build_tokenizer, build_tokenizers
from hrt_mm.train.precision import emulates_bf16
from hrt_mm.train.resolved import resolved_yaml
from hrt_mm.train.summary import parameter_count

UNENDING = ["train.steps=1000000", "train.save_every=null", "train.tensorboard=false"]
"""For runs that a time ends."""


@dataclass(frozen=True)
class Finished:
    """What a run left.

    Args:
        summary: ``summary.json``.
        lines: ``metrics.jsonl``.
    """

    summary: dict[str, Any]
    lines: list[dict[str, Any]]

    def metric(self, name: str) -> float:
        """A metric of the best weights."""
        return float(self.summary["metrics"][name])

    def curve(self, name: str) -> list[list[float]]:
        """[seconds, steps, value] of a metric, wherever it was measured."""
        points, seconds = [], {line["step"]: line["seconds"] for line in self.lines if "seconds" in line}
        for line in self.lines:
            if name in line:
                # A step that was not logged lies between two that were.
                previous = max((step for step in seconds if step <= line["step"]), default=None)
                if previous is not None:
                    points.append([round(seconds[previous] * line["step"] / previous, 2), line["step"], line[name]])
        return points


def for_minutes(minutes: float, device: torch.device) -> list[str]:
    """Overrides for a run of some time: the processor's own on a CPU, in one thread, and the wall's on a GPU."""
    clock = "cpu" if device.type == "cpu" else "wall"
    words = [f"train.time_limit={minutes}", f"train.clock={clock}", f"train.device={device.type}", *UNENDING]
    return [*words, "train.num_threads=1"] if device.type == "cpu" else words


def precisions(faster: Mapping[str, str], device: torch.device) -> dict[str, str]:
    """Overrides' ``train.precision`` by contender: what is faster for each, as far as the device computes it itself.

    Args:
        faster: by contender, the precision in which its steps are faster on a CPU with AVX512-BF16; ``auto`` on a GPU.
        device: where the runs are.
    """
    if device.type != "cpu":
        return dict.fromkeys(faster, "auto")
    return dict.fromkeys(faster, "fp32") if emulates_bf16(device) else dict(faster)


def trained(config: str | Path, folder: Path, overrides: Sequence[str]) -> Finished:
    """Trains a configuration by ``hrt-mm train``; its words go to a log beside the run folder.

    Raises:
        UserError: the run failed; gives its last words.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # A run that was interrupted goes on from its last checkpoint.
    words = [sys.executable, "-m", "hrt_mm", "train", str(config), "--resume", f"run.dir={folder}", *overrides]
    with folder.with_suffix(".log").open("w+") as log:
        done = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False, env={**os.environ})
        log.seek(0)
        output = log.read().strip().splitlines()
    if done.returncode:
        raise UserError(f"the run of {folder.name} failed: {' '.join(output[-3:])}")
    print(f"{folder.name}: {output[-1] if output else ''}", file=sys.stderr, flush=True)
    return finished(folder)


def kept(config: str | Path, folder: Path, overrides: Sequence[str]) -> Finished | None:
    """A run that is over, where its folder is there already.

    Raises:
        UserError: the folder holds a run of another configuration.
    """
    if not (folder / "summary.json").exists():
        return None
    if load_config(config, [f"run.dir={folder}", *overrides]) != load_config(folder / "config.yaml", of_run=True):
        raise UserError(f"{folder} holds a run of another configuration; remove it, or name another --runs")
    return finished(folder)


def kept_or_trained(config: RunConfig, folder: Path, overrides: Sequence[str]) -> Finished:
    """The finished run in a folder, or else a new one. What it trains is written beside the folder.

    Raises:
        UserError: the folder holds a run of another configuration, or the run failed.
    """
    file = written(config, folder.with_suffix(".yaml"))
    return kept(file, folder, overrides) or trained(file, folder, overrides)


def finished(folder: Path) -> Finished:
    """A run that is over, from its folder."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return Finished(json.loads((folder / "summary.json").read_text()), lines)


def written(config: RunConfig, file: Path) -> Path:
    """Writes a configuration that was made here, for the command to read."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(resolved_yaml(config))
    return file


def flat(config: RunConfig) -> RunConfig:
    """The flat control of a configuration, which its task reads: one level, the same blocks, as many parameters in all.

    Its level is wider than the hierarchy's finest, and so is its embedding; its feed-forwards are narrower by as much.
    """
    model = flat_control(config.single.model, build_tokenizer(config).axes)
    return fitted(reading(config, model, model.levels[0].name), config)


def reading(config: RunConfig, model: HierarchyConfig, level: str) -> RunConfig:
    """A configuration with another model, of which its task reads a level, for what symbols are spelled with too."""
    # Tasks of dense labels read the finest level always, and have no key for it.
    has_level = "level" in type(config.task).model_fields
    task = config.task.model_copy(update={"level": level}) if has_level else config.task
    if isinstance(task, CTCConfig) and task.finer is not None:
        task = task.model_copy(update={"finer": task.finer.model_copy(update={"level": level})})
    return config.with_model(model).model_copy(update={"task": task})


def fitted(config: RunConfig, other: RunConfig) -> RunConfig:
    """A configuration with as many parameters as another one, by the feed-forwards of its deepest level."""
    model = config.single.model
    deepest = max(model.levels, key=lambda level: level.depth)
    hidden = deepest.mlp_dim - (_parameters(config) - _parameters(other)) / (3 * deepest.dim * deepest.depth)
    changed = deepest.model_copy(update={"mlp_ratio": hidden / deepest.dim})
    levels = tuple(changed if level is deepest else level for level in model.levels)
    return config.with_model(model.model_copy(update={"levels": levels}))


def _parameters(config: RunConfig) -> int:
    with torch.device("meta"):
        return parameter_count(build_task(config, build_tokenizers(config), config.task.stand_ins))


def scores(run: Finished, metrics: Mapping[str, str]) -> dict[str, float]:
    """Metrics of a run by the names that a result gives them, and how large and how long it was."""
    values = {name: run.metric(metric) for name, metric in metrics.items()}
    return values | {name: float(run.summary[name]) for name in ("parameters", "steps", "samples", "seconds")}
