"""Words from a silent mouth: the hierarchy, its flat control, and a frame-CNN with a flat transformer on GRID.

Each word at its time (``video/grid_lips``, which is given when words begin), and the sentence by CTC
(``video/grid_lips_ctc``, which is not), for which each contender goes on from its own weights of the first. All have
the same stem, depth, parameters, batches, optimizer and augmentation, and compute for equal time: processor time of one
thread on a CPU, wall-clock time on a GPU. The flat control is one level over all tubes of a video. The third one has
the hierarchy's convolutions and joins the tubes of each frame to one token as the hierarchy does, with no blocks below;
then all its blocks are over frames. By CTC a symbol takes four frames or more in all of them: what the controls' blocks
give is pooled to the hierarchy's pieces, of which the head tells words.

``HRT_MM_DATA`` names the folder that holds ``grid_s1/``. With ``--runs DIR`` run folders are kept there, and those that
are finished are not trained again.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from math import prod
from pathlib import Path
from statistics import fmean

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import UserError
from hrt_mm.core.levels import FixedGroups, HierarchyConfig, Level
from hrt_modalities.corpora.grid.video import GridVideoConfig
from hrt_modalities.video.clips import Clips

from .checks import CheckFailed
from .command import main, parser
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import Finished, finished, fitted, flat, for_minutes, reading, scores, trained, written

NAME = "lips"
CONFIGS = {"slots": "video/grid_lips", "ctc": "video/grid_lips_ctc"}
METRICS = {"slots": "accuracy", "ctc": "word_error_rate"}
CONTROLS = ("flat", "frame-CNN")
CONTENDERS = ("hierarchy", *CONTROLS)
AIM = 0.9
"""Mean accuracy over the slots that is aimed at, on a GPU and at convergence."""
TOLERANCE = 0.02
"""How far the contenders' parameters may differ."""


def frame_cnn(config: RunConfig) -> RunConfig:
    """The control whose blocks are all over frames, above the stem and the pooling of a configuration's first level."""
    model = config.single.model
    tubes, frames = model.levels[:2]
    depth = sum(level.depth for level in model.levels)
    levels = (
        Level(name=tubes.name, dim=tubes.dim, depth=0, heads=tubes.heads, group=tubes.group, pool=tubes.pool),
        Level(name=frames.name, dim=frames.dim, depth=depth, heads=frames.heads),
    )
    shared = {name: getattr(model, name) for name in ("rope_theta", "drop_path", "dropout")}
    control = HierarchyConfig(levels=levels, **shared)
    return fitted(reading(config, control, frames.name), config)


def contenders(task: str) -> dict[str, RunConfig]:
    """The configurations of a task. Those of CTC have the models that learned the slots, so as to start from them."""
    slots = load_config(CONFIGS["slots"])
    controls = {"flat": flat(slots), "frame-CNN": frame_cnn(slots)}
    if task == "slots":
        return {"hierarchy": slots, **controls}
    config = load_config(CONFIGS[task])
    return {"hierarchy": config} | {name: _by_ctc(config, control) for name, control in controls.items()}


def _by_ctc(config: RunConfig, control: RunConfig) -> RunConfig:
    """A control with the task of another configuration, whose steps are as long: means of what its blocks give."""
    model, top = control.single.model, config.single.model.levels[-1]
    groups = [level.group for level in config.single.model.levels[:-1]]
    levels = [
        level.model_copy(update={"group": group}) for level, group in zip(model.levels[:-1], groups, strict=False)
    ]
    last = model.levels[-1]
    steps = last.model_copy(update={"group": _together(groups[len(levels) :]), "pool": "mean"})
    means = Level(name=top.name, dim=last.dim, depth=0, heads=last.heads)
    model = model.model_copy(update={"levels": (*levels, steps, means)})
    return reading(config, model, top.name)


def _together(groups: Sequence[object]) -> FixedGroups:
    """Fixed groups as large as several of them, one upon the other."""
    strides = [group.stride for group in groups if isinstance(group, FixedGroups) and isinstance(group.stride, tuple)]
    assert len(strides) == len(groups)
    return FixedGroups(stride=tuple(map(prod, zip(*strides, strict=True))))


def chance() -> float:
    """Mean accuracy over the slots of sentences that are guessed: one of the words that training has there."""
    data = load_config(CONFIGS["slots"]).data
    assert isinstance(data, GridVideoConfig)
    train = data.build("train")
    assert isinstance(train, Clips)
    sentences = [[word for word in item.target or () if word is not None] for item in train.items]
    slots = [{sentence[slot] for sentence in sentences} for slot in range(min(map(len, sentences)))]
    return fmean(1 / len(words) for words in slots)


def train(task: str, name: str, config: RunConfig, folder: Path, options: argparse.Namespace) -> Finished:
    """Trains a contender, unless its finished run is there already.

    Raises:
        UserError: the run failed, or another run lies in its folder.
    """
    run = folder / f"{task}-{name}"
    minutes = 0.02 if options.quick else minutes_of(task, options)
    words = [*for_minutes(minutes, options.device), f"train.seed={options.seed}"]
    if task == "ctc":
        train("slots", name, contenders("slots")[name], folder, options)
        words.append(f"train.init_from={folder / f'slots-{name}'}")
    if options.device.type == "cpu":
        words.append("train.workers=0")
    file = written(config, folder / f"{task}-{name}.yaml")
    if (run / "summary.json").is_file():
        if load_config(run / "config.yaml", of_run=True) != load_config(file, [*words, f"run.dir={run}"]):
            raise UserError(f"{run} holds a run of another configuration; remove it, or name another --runs")
        return finished(run)
    return trained(file, run, words)


def minutes_of(task: str, options: argparse.Namespace) -> float:
    """How long each contender is trained."""
    return float(options.minutes if task == "slots" else options.ctc_minutes)


def run(options: argparse.Namespace) -> Result:
    """Trains all contenders on both tasks, one after another.

    Raises:
        UserError: the data is not there, or a run failed; gives its last words.
        CheckFailed: the contenders are not of one size.
    """
    if not os.environ.get("HRT_MM_DATA"):
        raise UserError("HRT_MM_DATA is not set; name the folder that holds grid_s1/")
    tasks = options.tasks or list(CONFIGS)
    names = ("hierarchy", *(name for name in CONTROLS if name in options.controls))
    results: dict[str, dict[str, Finished]] = {}
    with ExitStack() as stack:
        folder = options.runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            configs = contenders(task)
            results[task] = {name: train(task, name, configs[name], folder, options) for name in names}
    checks = {
        f"{task}, parameters of {name}": _apart(runs[name], runs["hierarchy"])
        for task, runs in results.items()
        for name in names[1:]
    }
    for name, apart in checks.items():
        if apart > TOLERANCE:
            raise CheckFailed(f"{name} differ by {apart:.1%}, more than {TOLERANCE:.0%}")
    settings = {
        "minutes": {task: minutes_of(task, options) for task in (CONFIGS if "ctc" in tasks else tasks)},
        "seed": options.seed,
        "configs": {task: CONFIGS[task] for task in tasks},
    }
    rows = [_row(task, runs) for task, runs in results.items()]
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings=settings | {"chance": chance()},
        checks=checks,
        rows=rows,
        bars=[] if options.quick else _bars(rows, options.minutes),
        details={
            "curves": {
                task: {name: one.curve(f"val/{METRICS[task]}") for name, one in runs.items()}
                for task, runs in results.items()
            }
        },
        **environment(options.device),
    )


def _apart(one: Finished, other: Finished) -> float:
    return abs(float(one.summary["parameters"]) / float(other.summary["parameters"]) - 1)


def _row(task: str, runs: Mapping[str, Finished]) -> Row:
    metric = METRICS[task]
    measured = {
        name: Measured(seconds=run.summary["seconds"], scores={**scores(run, {metric: f"test/{metric}"})})
        for name, run in runs.items()
    }
    values = {name: run.metric(f"test/{metric}") for name, run in runs.items()}
    print(f"{task}, {metric}: {values}", file=sys.stderr, flush=True)
    ratios = {
        f"{metric}, hierarchy less {name}": values["hierarchy"] - values[name] for name in values if name != "hierarchy"
    }
    return Row(sizes={"task": task, "metric": metric}, contenders=measured, ratios=ratios)


def _bars(rows: list[Row], minutes: float) -> list[Bar]:
    bars = []
    for row in rows:
        metric = str(row.sizes["metric"])
        values = {name: one.scores[metric] or 0.0 for name, one in row.contenders.items()}
        if row.sizes["task"] == "slots":
            bars.append(
                Bar(
                    claim=f"slots of the test sentences after {minutes:g} minutes, the aim at convergence",
                    goal=f"{AIM:.0%} or more",
                    measured=f"{values['hierarchy']:.1%}",
                    met=values["hierarchy"] >= AIM,
                )
            )
    return bars


def tables(result: Result) -> str:
    """The result as Markdown."""
    parts = []
    for row in result.rows:
        metric = str(row.sizes["metric"])
        head = [f"`{result.settings['configs'][row.sizes['task']]}`", "parameters", "steps", "seconds of training"]
        body = [
            [
                name,
                *(f"{one.scores[key]:,.0f}" for key in ("parameters", "steps")),
                f"{one.seconds:,.0f}",
                f"{one.scores[metric]:.1%}",
            ]
            for name, one in row.contenders.items()
        ]
        if row.sizes["task"] == "slots":
            body.append(["guessing", "", "", "", f"{result.settings['chance']:.1%}"])
        parts.append(markdown([*head, f"test, {metric.replace('_', ' ')}"], body))
    return "\n\n".join(parts)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument(
        "--minutes", type=float, default=30.0, help="of computing that each contender is trained on the slots"
    )
    options.add_argument("--ctc-minutes", type=float, default=30.0, help="of CTC, after those of the slots")
    options.add_argument("--tasks", nargs="+", choices=list(CONFIGS), help="some of them; all when absent")
    text = "what stands beside the hierarchy; all when absent"
    options.add_argument("--controls", nargs="*", choices=CONTROLS, default=CONTROLS, help=text)
    options.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    options.add_argument("--runs", type=Path, metavar="DIR", help="keep runs here, and take those that are there")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
