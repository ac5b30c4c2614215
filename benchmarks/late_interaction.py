"""Vectors of samples: late interaction by level, nested widths, the temperature's start, and hard negatives.

Every contender of a part trains by the project's own loop for the same processor time on one thread, from the same
seeds, and is measured on the test split in both directions with the weights that were best on the validation split.

* ``levels``: quality by the number of vectors of a sample. One model compares the tokens of every level of its answers
  with the words of the query, by MaxSim. A coarse level is a learned pooling of the finest one; beside it stand the
  means of as many runs of neighbouring tokens of the finest level, and as many clusters of them by Ward's method
  (arXiv 2409.14683). ``single`` is the vector of the whole sample.
* ``nested``: widths of single vectors: trained as prefixes of one another (``task.matryoshka``), cut from a model that
  was trained without, and trained at that width.
* ``temperature``: recall on the validation split by step, for two starts of the learned temperature.
* ``negatives``: a run is trained further with hard negatives that it mined itself (``hrt-mm mine``), for equal steps
  beside as many random samples of a batch as before, and beside random samples in place of the negatives.

``braille`` are the 256 Braille patterns and their names, and ``small-glyphs`` all symbols at 16 pixels: both are small
enough for a minute. ``glyphs`` needs no data either; ``emoji``, ``grid`` and ``films`` take longer, the first two with
``HRT_MM_DATA``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.spans import Spans
from hrt_mm.inference.trained import TrainedRun, load_task
from hrt_mm.metrics.retrieval import rank, rank_scores
from hrt_mm.retrieval import Embedder
from hrt_mm.retrieval.mining import mine
from hrt_mm.tasks import Contrastive, ContrastiveConfig
from hrt_mm.tasks.contrastive_views import Vectors, prefix
from hrt_mm.train.build import build_dataset
from hrt_mm.train.loop import train

from .command import main, numbers, parser
from .markdown import markdown
from .results import Measured, Result, Row, environment
from .runs import for_minutes, written

NAME = "late-interaction"
PARTS = ("levels", "nested", "temperature", "negatives")
FIGURES = ("R@1", "R@5", "MRR", "nDCG@10")
BATCH = 64
WIDTHS = (4, 8, 16, 32)
TEMPERATURES = (0.1, 0.05)
NEGATIVE_STEPS = 100
"""Further steps of part ``negatives``."""
SMALL = """\
towers:
  image:
    modality: {type: vision, channels: 1, patch: 2, size: 16, stem: {type: conv}}
    model:
      levels:
        - {name: strokes, dim: 32, heads: 2, depth: 1, window: 4, group: {type: fixed, stride: 2}, pool: conv}
        - {name: parts, dim: 48, heads: 2, depth: 1, group: {type: fixed, stride: 2}, pool: conv}
        - {name: glyph, dim: 64, heads: 2, depth: 1}
      cross_scale: {up: true, down: true}
  text:
    modality: {type: text}
    model:
      levels:
        - {name: bytes, dim: 32, heads: 2, depth: 1, group: {type: given, boundary: words, max: 32, typical: 5}}
        - {name: words, dim: 64, heads: 2, depth: 1}
task: {type: contrastive, dim: 64}
data: {type: glyphs, side: 16}
optim: {lr: 3.0e-3, warmup_steps: 10}
train: {steps: 1000, batch_size: 64, eval_every: null, tensorboard: false, precision: fp32}
"""
"""The model of the small tasks."""
SMALL_DATA = {"braille": ["data.scripts=[braille]", "data.val=0.2", "data.test=0.3"], "small-glyphs": []}


@dataclass(frozen=True)
class Task:
    """What is searched by what.

    Args:
        query: the tower of the queries.
        query_level: whose tokens are compared.
        answer: the tower of the answers.
        levels: of the answers, fine to coarse.
        minutes: of each training.
        batch: samples of a step: few, so that there are many steps.
    """

    query: str
    query_level: str
    answer: str
    levels: tuple[str, ...]
    minutes: float
    batch: int = 64


TASKS = {
    "braille": Task("text", "words", "image", ("strokes", "parts", "glyph"), 0.5),
    "small-glyphs": Task("text", "words", "image", ("strokes", "parts", "glyph"), 0.5),
    "glyphs": Task("text", "words", "image", ("strokes", "parts", "glyph"), 2.5),
    "emoji": Task("noto", "emoji", "emojitwo", ("parts", "emoji"), 1.2),
    "grid": Task("text", "words", "audio", ("frames", "words"), 1.5, 32),
    "films": Task("text", "words", "video", ("frames", "clips", "scenes"), 1.2, 16),
}
CONFIGS = {"films": "moments"}
"""Packaged configurations of other names than their task's."""


def base(task: str, folder: Path) -> RunConfig:
    """The configuration that a task starts from: whole samples alone are compared."""
    if task in SMALL_DATA:
        file = folder / f"{task}.yaml"
        file.write_text(SMALL)
        return load_config(file, SMALL_DATA[task])
    config = load_config(f"retrieval/{CONFIGS.get(task, task)}")
    towers = {name: config.towers[name] for name in (TASKS[task].query, TASKS[task].answer)}
    # Datasets with `use` read files of other towers otherwise.
    used = {"use": tuple(towers)} if "use" in type(config.data).model_fields else {}
    changes = {
        "towers": towers,
        "data": config.data.model_copy(update=used),
        "train": config.train.model_copy(update={"batch_size": TASKS[task].batch}),
    }
    return with_task(config.model_copy(update=changes), {"also": []})


def with_task(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """The same with other keys of its task."""
    values = {**config.task.model_dump(mode="json", exclude_unset=True), **changes}
    return config.model_copy(update={"task": ContrastiveConfig.model_validate(values)})


def with_levels(config: RunConfig, task: Task) -> RunConfig:
    """The same with MaxSim at every level of the answers."""
    also = [{"levels": {task.query: task.query_level, task.answer: level}, "align": "soft"} for level in task.levels]
    return with_task(config, {"also": also})


def trained(config: RunConfig, folder: Path, overrides: Sequence[str]) -> Path:
    """A finished run of a configuration; it is resumed where it was interrupted."""
    if not (folder / "summary.json").exists():
        file = written(config, folder.with_suffix(".yaml"))
        resume = (folder / "checkpoints").is_dir()
        train(load_config(file, [*overrides, f"run.dir={folder}"]), resume=resume)
        print(f"{folder.name}: trained", file=sys.stderr, flush=True)
    return folder


def for_time(name: str, seed: int, options: argparse.Namespace) -> list[str]:
    """Overrides for a training of the task's time."""
    return [*for_minutes(minutes(name, options), options.device), f"train.seed={seed}"]


@torch.no_grad()
def encoded(run: TrainedRun) -> list[dict[str, Vectors]]:
    """The vectors of the test split, by view and tower."""
    dataset, task = build_dataset(run.config, "test"), run.task
    assert isinstance(task, Contrastive)
    samples = [dataset[index] for index in range(len(dataset))]
    collator = run.config.task.collator(run.config.models, run.tokenizers, None)
    blocks = [task.encode(collator(samples[first : first + BATCH]))[0] for first in range(0, len(samples), BATCH)]
    return [
        {
            tower: Vectors.joined([block[view][tower] for block in blocks], _groups(blocks, view, tower))
            for tower in blocks[0][view]
        }
        for view in range(len(task.views))
    ]


def _groups(blocks: Sequence[list[dict[str, Vectors]]], view: int, tower: str) -> Tensor:
    return torch.cat([block[view][tower].groups for block in blocks])


def by_level(run: TrainedRun, task: Task) -> dict[str, tuple[float, dict[str, float]]]:
    """By method and level, the vectors of an answer and the figures of both directions."""
    whole, *views = encoded(run)
    finest = views[0]
    results = {"single": (1.0, figures(task, whole[task.query], whole[task.answer], soft=False))}
    for level, view in zip(task.levels, views, strict=True):
        answers = view[task.answer]
        counts = answers.samples.lengths.tolist()
        size = float(np.mean(counts))
        results[f"level {level}"] = (size, figures(task, view[task.query], answers, soft=True))
        for name, pool in POOLINGS.items():
            if level != task.levels[0]:
                pooled = pool_all(finest[task.answer], counts, pool)
                results[f"{name} as {level}"] = (size, figures(task, finest[task.query], pooled, soft=True))
    # A single cluster is the same mean.
    one = pool_all(finest[task.answer], [1] * len(finest[task.answer].samples), mean_runs)
    results["mean as one"] = (1.0, figures(task, finest[task.query], one, soft=True))
    return results


def figures(task: Task, queries: Vectors, answers: Vectors, *, soft: bool) -> dict[str, float]:
    """Figures of both directions."""
    metrics: dict[str, float] = {}
    sides = ((task.query, queries, task.answer, answers), (task.answer, answers, task.query, queries))
    for one, own, other, others in sides:
        correct_QN = own.groups[:, None] == others.groups[None]
        ranking = rank_scores(own.similarity(others, soft=soft), correct_QN).metrics()
        metrics |= {f"{one}_to_{other}/{name}": ranking[name] for name in (*FIGURES, "queries")}
    return metrics


def mean_runs(x_TD: np.ndarray, count: int) -> np.ndarray:
    """(count, D) the means of runs of neighbouring tokens, as equal as can be; blocks of a picture are runs."""
    return np.stack([run.mean(0) for run in np.array_split(x_TD, count)])


def ward(x_TD: np.ndarray, count: int) -> np.ndarray:
    """(count, D) the means of clusters by Ward's method; fewer where tokens are equal."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(x_TD) <= count:
        return x_TD
    label_T = fcluster(linkage(x_TD, "ward"), count, "maxclust")
    return np.stack([x_TD[label_T == label].mean(0) for label in np.unique(label_T)])


POOLINGS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"mean": mean_runs, "ward": ward}


def pool_all(vectors: Vectors, counts: Sequence[int], pool: Callable[[np.ndarray, int], np.ndarray]) -> Vectors:
    """Fewer vectors for each sample, normalized."""
    samples = [pool(x_TD.numpy(), count) for x_TD, count in zip(vectors.samples.split(vectors.x), counts, strict=True)]
    x_TD = functional.normalize(torch.from_numpy(np.concatenate(samples)).float(), dim=1)
    return Vectors(x_TD, Spans.from_lengths([len(sample) for sample in samples]), vectors.groups)


def levels(name: str, home: Path, options: argparse.Namespace) -> list[Row]:
    """The curve over levels."""
    task = TASKS[name]
    config = with_levels(base(name, home), task)
    rows = []
    for seed in options.seeds:
        folder = trained(config, home / f"{name}-levels-{seed}", for_time(name, seed, options))
        results = by_level(load_task(folder, overrides=["train.device=cpu"]), task)
        contenders = {
            method: Measured(seconds=None, scores={"vectors": size, **metrics})
            for method, (size, metrics) in results.items()
        }
        rows.append(Row(sizes={"part": "levels", "task": name, "seed": seed}, contenders=contenders, ratios={}))
    return rows


def nested(name: str, home: Path, options: argparse.Namespace) -> list[Row]:
    """The curve over widths."""
    task, config = TASKS[name], base(name, home)
    assert isinstance(config.task, ContrastiveConfig)
    whole = config.task.dim
    rows = []
    for seed in options.seeds:
        train_one = partial(trained, overrides=for_time(name, seed, options))
        changes: dict[str, dict[str, Any]] = {
            "nested": {"matryoshka": list(WIDTHS)},
            "plain": {},
            **{f"width-{width}": {"dim": width} for width in WIDTHS},
        }
        runs = {
            key: encoded(
                load_task(
                    train_one(with_task(config, change), home / f"{name}-{key}-{seed}"), overrides=["train.device=cpu"]
                )
            )[0]
            for key, change in changes.items()
        }
        contenders = {}
        for width in (*WIDTHS, whole):
            methods = {"nested": runs["nested"], "cut": runs["plain"]}
            if width < whole:
                methods["trained at it"] = runs[f"width-{width}"]
            for method, vectors in methods.items():
                metrics = narrow_figures(task, vectors, width)
                contenders[f"{method} {width}"] = Measured(seconds=None, scores={"width": float(width), **metrics})
        rows.append(Row(sizes={"part": "nested", "task": name, "seed": seed}, contenders=contenders, ratios={}))
    return rows


def narrow_figures(task: Task, vectors: Mapping[str, Vectors], width: int) -> dict[str, float]:
    """Figures of both directions of single vectors, cut to a width."""
    metrics: dict[str, float] = {}
    for one, other in ((task.query, task.answer), (task.answer, task.query)):
        own, others = vectors[one], vectors[other]
        ranking = rank(prefix(own.x, width), own.groups, prefix(others.x, width), others.groups).metrics()
        metrics |= {f"{one}_to_{other}/{name}": ranking[name] for name in (*FIGURES, "queries")}
    return metrics


def temperature(name: str, home: Path, options: argparse.Namespace) -> list[Row]:
    """Validation recall by step from two starts."""
    config = base(name, home)
    rows = []
    for seed in options.seeds:
        contenders = {}
        for start in TEMPERATURES:
            loss = {"type": "infonce", "temperature": {"init": start}}
            changed = with_task(config, {"loss": loss})
            every = changed.train.model_copy(update={"eval_every": options.eval_every})
            changed = changed.model_copy(update={"train": every})
            folder = trained(changed, home / f"{name}-t{start:g}-{seed}", for_time(name, seed, options))
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            curve = {f"R@1 at {line['step']}": line["val/R@1"] for line in lines if "val/R@1" in line}
            contenders[f"from {start:g}"] = Measured(seconds=None, scores=curve)
        rows.append(Row(sizes={"part": "temperature", "task": name, "seed": seed}, contenders=contenders, ratios={}))
    return rows


def negatives(name: str, home: Path, options: argparse.Namespace) -> list[Row]:
    """Hard negatives beside random ones."""
    task, config = TASKS[name], base(name, home)
    whole, twice = task.batch, 2 * task.batch
    rows = []
    for seed in options.seeds:
        first = trained(config, home / f"{name}-plain-{seed}", for_time(name, seed, options))
        table = home / f"{name}-negatives-{seed}.tsv"
        if not table.exists():
            mine(Embedder.of(first), "train", table)
        contenders = {"before": narrow_scores(task, first)}
        changes = {
            f"batches of {whole}": (config, whole),
            f"batches of {whole} and hard negatives": (with_task(config, {"negatives": str(table)}), whole),
            f"batches of {twice}": (config, twice),
        }
        for number, (contender, (changed, batch)) in enumerate(changes.items()):
            steps = 2 if options.quick else NEGATIVE_STEPS
            words = [f"train.steps={steps}", "train.time_limit=null", f"train.batch_size={batch}"]
            words += [f"train.device={options.device.type}", "train.num_threads=1", "train.tensorboard=false"]
            words += [f"train.init_from={first}", f"train.seed={seed}"]
            folder = trained(changed, home / f"{name}-negatives-{number}-{seed}", words)
            contenders[contender] = narrow_scores(task, folder)
        rows.append(Row(sizes={"part": "negatives", "task": name, "seed": seed}, contenders=contenders, ratios={}))
    return rows


def narrow_scores(task: Task, folder: Path) -> Measured:
    """Figures of the single vectors of a run."""
    run = load_task(folder, overrides=["train.device=cpu"])
    assert isinstance(run.task, Contrastive)
    return Measured(seconds=None, scores={**narrow_figures(task, encoded(run)[0], run.task.width)})


RUNNERS = {"levels": levels, "nested": nested, "temperature": temperature, "negatives": negatives}


def minutes(name: str, options: argparse.Namespace) -> float:
    """Of each training."""
    return 0.01 if options.quick else float(options.minutes or TASKS[name].minutes)


def run(options: argparse.Namespace) -> Result:
    """Trains what is not there, and measures all."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(options.runs or folder)
        home.mkdir(parents=True, exist_ok=True)
        for task in options.tasks:
            for part in options.parts:
                rows += RUNNERS[part](task, home, options)
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"seeds": list(options.seeds), "clock": "cpu" if options.device.type == "cpu" else "wall"},
        checks={},
        rows=rows,
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown: means over seeds, with the lowest and the highest."""
    parts = []
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in result.rows:
        groups.setdefault((str(row.sizes["task"]), str(row.sizes["part"])), []).append(row)
    for (task, part), rows in groups.items():
        names = list(rows[0].contenders)
        keys = [key for key in rows[0].contenders[names[0]].scores if not key.endswith("queries")]
        queries = [value for key, value in rows[0].contenders[names[0]].scores.items() if key.endswith("queries")]
        count = f", {queries[0]:,.0f} queries" if queries and queries[0] else ""
        body = [[name, *(_cell(rows, name, key) for key in keys)] for name in names]
        parts.append(f"**{task}, {part}**, {len(rows)} seeds{count}.")
        parts.append(markdown(["", *keys], body))
    return "\n\n".join(parts)


def _cell(rows: Sequence[Row], name: str, key: str) -> str:
    values = [row.contenders[name].scores.get(key) for row in rows]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = sum(known) / len(known)
    if key in ("vectors", "width"):
        return f"{mean:.3g}"
    spread = f" ({100 * min(known):.0f}-{100 * max(known):.0f})" if len(known) > 1 else ""
    return f"{100 * mean:.1f}{spread}"


FAMILIES = {
    "levels": {"level": "tokens of a level", "mean": "means of neighbours", "ward": "Ward clusters"},
    "nested": {"nested": "nested", "cut": "cut without training for it", "trained at it": "trained at this width"},
}
"""By part that is drawn, the beginnings of the names of contenders, and what a curve is called."""
AXES = {"levels": ("vectors", "vectors of a sample"), "nested": ("width", "width of the single vector")}
"""By part, the score along the horizontal axis, and its label."""


def picture(result: Result, path: Path) -> None:
    """Draws quality against vectors of a sample, and against the width of single vectors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    panels = list(dict.fromkeys((str(row.sizes["part"]), str(row.sizes["task"])) for row in result.rows))
    panels = [panel for panel in panels if panel[0] in FAMILIES]
    if not panels:
        return
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    figure, grid = pyplot.subplots(
        lines, columns, figsize=(5.4 * columns, 3.8 * lines), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (part, task) in zip(grid.flat, panels, strict=False):
        rows = [row for row in result.rows if (row.sizes["part"], row.sizes["task"]) == (part, task)]
        size, label = AXES[part]
        for family, family_label in FAMILIES[part].items():
            names = [name for name in rows[0].contenders if name.startswith(family)]
            if family in ("mean", "ward"):
                # With as many vectors as the finest level has tokens, nothing is pooled.
                names.append(next(name for name in rows[0].contenders if name.startswith("level")))
            points = sorted(_point(rows, name, size) for name in names)
            sizes, values, below, above = (list(column) for column in zip(*points, strict=True))
            axes.errorbar(sizes, values, yerr=(below, above), marker="o", capsize=3, label=family_label)
        if "single" in rows[0].contenders:
            x, y, low, high = _point(rows, "single", size)
            style = {"marker": "*", "markersize": 11, "color": "black"}
            axes.errorbar([x], [y], yerr=([low], [high]), label="single vector", **style)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.set_ylim(0, 1.08 * axes.dataLim.ymax)
        axes.set_xlabel(label)
        axes.set_ylabel("nDCG@10, mean of both directions")
        axes.set_title(f"{task}, {len(rows)} seed{'s' * (len(rows) > 1)}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _point(rows: Sequence[Row], name: str, key: str) -> tuple[float, float, float, float]:
    """The score of a key, nDCG@10, and how far the lowest and the highest seed lie from it."""
    values = []
    for row in rows:
        scores = row.contenders[name].scores
        values.append(
            np.mean([value for key, value in scores.items() if key.endswith("nDCG@10") and value is not None])
        )
    mean = float(np.mean(values))
    size = rows[0].contenders[name].scores[key]
    assert size is not None
    return size, mean, mean - float(min(values)), float(max(values)) - mean


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME.replace("-", "_"), __doc__ or "")
    options.add_argument("--tasks", nargs="+", choices=TASKS, default=["braille"], help="braille when absent")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all when absent")
    options.add_argument("--minutes", type=float, help="of each training; by task when absent")
    options.add_argument("--seeds", type=_seeds, default=(0,), metavar="N,N", help="0 when absent")
    options.add_argument("--eval-every", type=int, default=20, help="steps between evaluations of temperatures (20)")
    options.add_argument("--runs", type=Path, metavar="DIR", help="keep runs here, and go on with those that are there")
    return options


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(seed - 1 for seed in numbers(",".join(str(int(part) + 1) for part in text.split(","))))


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables, picture=picture))
