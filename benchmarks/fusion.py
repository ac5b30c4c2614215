"""Sound and lips together in noise: which word is said, by each way of fusing, beside each sense alone.

Each head of ``retrieval/grid_fused`` trains by ``hrt-mm train`` for some minutes of processor time on one thread
(wall-clock time on a GPU), with white noise or the babble of other sentences at -20 to 20 dB, and learns from each
modality alone as well. Its best weights by the validation split then tell the 600 words of the 100 test sentences:
clean, and at 0, -5 and -10 dB of either noise; from both, from sound alone and from video alone (``task.without``). The
ratio is that of a word's own sound. Test babble is mixed of training sentences. Two more runs train without the other
modality (``--no-alone`` leaves them out). ``experts`` starts from these two and trains only how much each counts, so
that its time is that of three runs. Chance is 1 in 51. ``HRT_MM_DATA`` names the folder that holds ``grid_s1/``.

On a machine with other load, a minute of processor time makes fewer steps; ``--steps`` trains runs for the steps that
they make on an idle one.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import UserError
from hrt_mm.inference.trained import evaluate_run
from hrt_mm.tasks.fusion import Fusion

from .command import main, parser, positive
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import Finished, for_minutes, kept_or_trained, precisions, scores

NAME = "fusion"
CONFIG = "retrieval/grid_fused"
TOKENS = {"dim": 128, "depth": 2, "heads": 4, "time": {"audio": 1.0, "video": 1.0}}
HEADS: dict[str, dict[str, Any]] = {
    "concat": {"type": "concat", "dim": 128},
    "gated": {"type": "gated", "dim": 128},
    "experts": {"type": "experts", "dim": 128},
    "cross_attention": {"type": "cross_attention", **TOKENS},
    "bottleneck": {"type": "bottleneck", "tokens": 4, **TOKENS},
    "joint": {"type": "joint", **TOKENS},
}
SENSES: dict[str, tuple[str, ...]] = {"fused": (), "audio": ("video",), "video": ("audio",)}
"""What is read, and what is left out for it."""
LEAST, MINUTES = 12.0, {"bottleneck": 18.0, "joint": 18.0}
"""Of each run when ``--minutes`` is absent: heads of tokens that learn more slowly have longer."""
WEIGHTS = 0.1
"""Of a run's minutes, for the weights of ``experts``."""
FROZEN = "optim.freeze=[encoders, maps, fusion.heads]"
NOISES, DECIBELS = ("white", "babble"), (0, -5, -10)
CLEAN = "clean"
WORDS = 51
"""Of the grammar."""
QUICK = ["train.batch_size=2", "optim.warmup_steps=1", "train.eval_every=1000000", "train.eval_batches=1"]


def conditions() -> dict[str, list[str]]:
    """By name, the overrides of each noise."""
    noisy = {f"{noise} {db} dB": [f"data.noise={noise}", f"data.noise_db={db}"] for noise in NOISES for db in DECIBELS}
    return {CLEAN: []} | noisy


def contender(head: str, without: Sequence[str] = ()) -> RunConfig:
    """The configuration of a head, maybe without a modality."""
    config = load_config(CONFIG)
    fusion: Fusion = TypeAdapter(Fusion).validate_python(HEADS[head])
    task = config.task.model_copy(update={"fusion": fusion, "without": tuple(without)})
    return config.model_copy(update={"task": task})


def train(
    name: str, config: RunConfig, home: Path, options: argparse.Namespace, overrides: Sequence[str] = ()
) -> Finished:
    """A contender's run, or the finished one that is there already."""
    minutes = 0.01 if options.quick else run_minutes(name, options)
    words = [*for_minutes(minutes, options.device), f"train.seed={options.seed}", f"data.cache.dir={home / 'frames'}"]
    if name in options.steps:
        words += ["train.time_limit=null", f"train.steps={options.steps[name]}"]
    words += overrides
    words += [f"train.precision={precisions({CONFIG: 'bf16'}, options.device)[CONFIG]}"]
    words += QUICK if options.quick else []
    return kept_or_trained(config, home / name, words)


def train_head(head: str, home: Path, options: argparse.Namespace, alone: Mapping[str, Finished]) -> Finished:
    """The run of a head. That of experts starts from models of one modality, and counts their steps."""
    if head != "experts":
        return train(head, contender(head), home, options)
    sources = ", ".join(f"{sense}: {home / f'{sense}-alone'}" for sense in alone)
    words = [f"train.init_from={{{sources}}}", FROZEN, "task.alone=0", "train.eval_every=50"]
    weights = train(head, contender(head), home, options, words)
    totals = {
        key: weights.summary[key] + sum(run.summary[key] for run in alone.values())
        for key in ("steps", "samples", "seconds")
    }
    return Finished(weights.summary | totals, weights.lines)


def train_alone(home: Path, options: argparse.Namespace) -> dict[str, Finished]:
    """The runs of one modality."""
    return {
        sense: train(f"{sense}-alone", contender("experts", without), home, options, ["task.alone=0"])
        for sense, without in SENSES.items()
        if without
    }


def run_minutes(name: str, options: argparse.Namespace) -> float:
    """How long a run trains."""
    minutes = float(options.minutes or MINUTES.get(name, LEAST))
    return WEIGHTS * minutes if name == "experts" else minutes


def minutes_of(head: str, options: argparse.Namespace) -> float:
    """How long a contender trains, with the runs that it starts from."""
    alone = sum(run_minutes(f"{sense}-alone", options) for sense, without in SENSES.items() if without)
    return run_minutes(head, options) + (alone if head == "experts" else 0)


def accuracies(folder: Path, without: Sequence[str], device: str, *, clean: bool = False) -> dict[str, float | None]:
    """Accuracy on the test split in each condition. What was measured already is read from beside the run.

    Args:
        folder: of the run.
        without: modalities that are left out.
        device: where it is evaluated.
        clean: without noise alone.
    """
    file = folder.with_name(f"{folder.name}.without-{'-'.join(without) or 'none'}.json")
    cached: dict[str, float | None] = json.loads(file.read_text()) if _newer(file, folder / "summary.json") else {}
    selected = {name: words for name, words in conditions().items() if name == CLEAN or not clean}
    for name, words in selected.items():
        if name not in cached:
            left_out = f"task.without=[{', '.join(without)}]"
            metrics = evaluate_run(folder, "test", [f"train.device={device}", left_out, *words])
            cached[name] = metrics["test/accuracy"]
            file.write_text(json.dumps(cached))
    return {name: cached[name] for name in selected}


def _newer(file: Path, run: Path) -> bool:
    return file.is_file() and run.is_file() and file.stat().st_mtime >= run.stat().st_mtime


def measured(run: Finished, accuracies: Mapping[str, float | None]) -> Measured:
    """Accuracies, with the training time and size of their run."""
    sizes: Mapping[str, float] = scores(run, {})
    return Measured(
        seconds=run.summary["seconds"], bytes=run.summary["peak_memory_bytes"], scores={**accuracies, **sizes}
    )


def run(options: argparse.Namespace) -> Result:
    """Trains what is not there, and measures all.

    Raises:
        UserError: the data is not there, or a run failed.
    """
    if not os.environ.get("HRT_MM_DATA"):
        raise UserError("HRT_MM_DATA is not set; name the folder that holds grid_s1/")
    heads = options.heads or (list(HEADS)[:1] if options.quick else list(HEADS))
    device, rows = options.device.type, []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(options.runs or folder)
        home.mkdir(parents=True, exist_ok=True)
        with_alone = options.alone and not options.quick
        alone = train_alone(home, options) if with_alone or "experts" in heads else {}
        for head in heads:
            fused = train_head(head, home, options, alone)
            results = {
                # Noise does not change a video.
                sense: measured(
                    fused, accuracies(home / head, without, device, clean=options.quick or sense == "video")
                )
                for sense, without in SENSES.items()
            }
            rows.append(Row(sizes={"head": head}, contenders=results, ratios={}))
        if with_alone:
            results = {
                sense: measured(
                    single, accuracies(home / f"{sense}-alone", SENSES[sense], device, clean=sense == "video")
                )
                for sense, single in alone.items()
            }
            rows.append(Row(sizes={"head": ALONE}, contenders=results, ratios={}))
    fused_rows = [row for row in rows if row.sizes["head"] != ALONE]
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={
            "minutes": {head: minutes_of(head, options) for head in (*heads, ALONE)},
            "steps": options.steps,
            "seed": options.seed,
            "config": CONFIG,
        },
        checks={},
        rows=rows,
        bars=[] if options.quick else [bar for row in fused_rows for bar in bars(row, rows[-1])],
        **environment(options.device),
    )


ALONE = "trained alone"


def _at(row: Row, sense: str, condition: str) -> float:
    scores = row.contenders[sense].scores
    value = scores[condition] if condition in scores else scores[CLEAN]
    assert value is not None
    return value


def bars(row: Row, last: Row) -> list[Bar]:
    """Whether fusing pays: over sound wherever there is noise, over video everywhere, and over models trained alone.

    Args:
        row: of a head.
        last: the last row, of the models trained alone, if there are any.
    """
    noisy = [name for name in conditions() if name != CLEAN]
    goals = []
    for sense, noises in (("audio", noisy), ("video", [CLEAN, *noisy])):
        leads = {noise: _at(row, "fused", noise) - _at(row, sense, noise) for noise in noises}
        worst = min(leads, key=lambda noise: leads[noise])
        goals.append(
            Bar(
                claim=f"{row.sizes['head']}: fused over {sense} alone, at its least of {len(noises)} points",
                goal="above 0",
                measured=f"{leads[worst]:+.1%} ({worst})",
                met=leads[worst] > 0,
            )
        )
    if last.sizes["head"] == ALONE:
        singles = {name: max(_at(last, sense, name) for sense in last.contenders) for name in conditions()}
        leads = {name: _at(row, "fused", name) - best for name, best in singles.items()}
        worst = min(leads, key=lambda noise: leads[noise])
        goals.append(
            Bar(
                claim=f"{row.sizes['head']}: fused over the better model trained alone, at its least of "
                f"{len(leads)} points",
                goal="0 or more",
                measured=f"{leads[worst]:+.1%} ({worst})",
                met=leads[worst] >= 0,
            )
        )
    return goals


def tables(result: Result) -> str:
    """The result as Markdown."""
    names = list(next(iter(result.rows[0].contenders.values())).scores)
    selected = [name for name in conditions() if name in names]
    body = [
        [
            f"{row.sizes['head']}",
            f"{result.settings['minutes'][row.sizes['head']]:g}",
            sense,
            *(f"{_at(row, sense, name):.0%}" for name in selected),
            f"{measured.scores['steps']:,.0f}",
        ]
        for row in result.rows
        for sense, measured in row.contenders.items()
    ]
    return (
        f"Accuracy over {WORDS} words on the 600 of the test sentences, chance {1 / WORDS:.0%}:\n\n"
        f"{markdown(['head', 'minutes', 'reads', *selected, 'steps'], body)}"
    )


def picture(result: Result, file: Path) -> None:
    """Draws accuracy against noise: a column a head, a row a kind of noise."""
    from matplotlib.figure import Figure

    rows = [row for row in result.rows if row.sizes["head"] != ALONE]
    figure = Figure(figsize=(2.6 * len(rows), 5.2), layout="constrained")
    panels = figure.subplots(len(NOISES), len(rows), sharex=True, sharey=True, squeeze=False)
    ticks = [CLEAN, *(f"{db} dB" for db in DECIBELS)]
    for line, noise in zip(panels, NOISES, strict=True):
        for axes, row in zip(line, rows, strict=True):
            names_shown = [CLEAN, *(f"{noise} {db} dB" for db in DECIBELS)]
            for sense, style in (("fused", "o-"), ("audio", "s--"), ("video", "^:")):
                axes.plot(
                    ticks, [_at(row, sense, condition) for condition in names_shown], style, markersize=4, label=sense
                )
            axes.axhline(1 / WORDS, color="0.6", linewidth=0.8)
            axes.set_title(f"{row.sizes['head']}, {noise}", fontsize=9)
            axes.set_ylim(0, 1)
            axes.grid(alpha=0.3)
            axes.tick_params(labelsize=8)
    panels[0][0].legend(fontsize=8)
    panels[0][0].set_ylabel("accuracy")
    panels[1][0].set_ylabel("accuracy")
    figure.savefig(file, dpi=120)


def steps_by_name(text: str) -> dict[str, int]:
    """Numbers of steps by the names of runs, as they are on the command line.

    Raises:
        ValueError: the text has another form.
    """
    pairs = dict(pair.split("=") for pair in text.split(","))
    names = {*HEADS, *(f"{sense}-alone" for sense, without in SENSES.items() if without)}
    if unknown := sorted(pairs.keys() - names):
        raise argparse.ArgumentTypeError(f"there is no run {unknown[0]!r}; there are {', '.join(sorted(names))}")
    return {name: positive(number) for name, number in pairs.items()}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--heads", nargs="+", choices=list(HEADS), help="some of the heads; all when absent")
    options.add_argument("--minutes", type=float, help="of each run; 12 when absent, 18 of bottleneck and joint")
    options.add_argument(
        "--steps", type=steps_by_name, default={}, metavar="RUN=N,RUN=N", help="train runs for so many steps instead"
    )
    options.add_argument("--runs", type=Path, metavar="DIR", help="keep runs here, and take those that are there")
    options.add_argument("--no-alone", dest="alone", action="store_false", help="leave out runs of one modality")
    options.add_argument("--seed", type=int, default=0, help="of the weights and the order; 0 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables, picture=picture))
