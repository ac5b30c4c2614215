"""Retrieval across modalities: glyphs and their names, emoji, spoken and written digits, and GRID's sentences.

All contenders of a task train by ``hrt-mm train`` for the same processor time on one thread (wall-clock time on a GPU)
and are measured on its test split, both ways, with the weights that were best on the validation split. A tie is never
won. ``glyphs`` needs no data; the others need ``HRT_MM_DATA`` with ``emoji/``, ``fsdd/`` and ``MNIST/``, ``grid_s1/``.

* ``glyphs``: characters that were not trained on, against their Unicode names; beside a flat two-tower model of equal
  parameters.
* ``emoji``: two drawing styles and the names of emoji that were not trained on; with and without contrast of words with
  parts of pictures.
* ``digits``: a speaker who was not heard against pictures and words of digits.
* ``grid``: sound, silent video and words of 100 sentences; one model of all three, beside one of each pair. Whole
  sentences are compared, and their words where they are known to lie: a word finds any word of the test sentences that
  says the same. ``apart`` leaves the near-duplicates of a query out of its answers: sentences that share four of its
  six words.

The names of ``glyphs`` and ``emoji`` have lexical controls (:mod:`benchmarks.lexical_controls`): words and pixels
without training. ``hybrid`` fuses the first contender with the one of n-grams by reciprocal rank. ``--controls`` trains
nothing. A sentence of ``grid`` would find itself by its words.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import UserError
from hrt_mm.inference.trained import TrainedRun, load_task
from hrt_mm.metrics.retrieval import rank_scores
from hrt_mm.retrieval.embed import Embedder
from hrt_mm.tasks import Contrastive, ContrastiveConfig
from hrt_mm.train.build import build_dataset
from hrt_mm.train.precision import autocast

from .checks import CheckFailed
from .command import main, parser
from .lexical_controls import WAYS, Controls, by_ngrams, fused
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import Finished, for_minutes, kept_or_trained, precisions, scores

NAME = "retrieval"
TASKS = ("glyphs", "emoji", "digits", "grid")
MINUTES = {"glyphs": 9.0, "emoji": 15.0, "digits": 5.0, "grid": 18.0}
"""Of each contender, when ``--minutes`` is absent."""
FOLDERS = {"emoji": "emoji", "digits": "fsdd", "grid": "grid_s1"}
"""In ``HRT_MM_DATA``."""
FASTER = {"glyphs": "fp32", "emoji": "bf16", "digits": "fp32", "grid": "bf16"}
"""Precision in which steps are faster on a CPU with AVX512-BF16."""
WHOLE = {"grid": "sentences", "emoji": "pictures"}
"""What whole samples are called, where levels are measured one by one."""
DIFFERENCE = 0.02
"""How far R@1 may differ between two ways of measuring it: in the summary, samples of equal content are one."""
SHARED = 4
"""Words in the same place that make two sentences of six near-duplicates."""
TOLERANCE = 0.01
"""How far the parameters of the flat control may differ."""
FIGURES = ("R@1", "R@5", "R@10", "mAP", "median_rank", "chance_R@1", "queries", "answers")
PICTURES = {"glyphs": ("image",), "emoji": ("noto", "emojitwo")}
"""Towers of pictures, for lexical controls."""
BATCH = 16
QUICK = [
    "train.eval_batches=1",
    "data.scripts=[greek]",
    "train.batch_size=8",
    "optim.warmup_steps=1",
    "train.eval_every=1000000",
]
"""What a quick try of ``glyphs`` changes."""


def contenders(task: str) -> dict[str, RunConfig]:
    """The configurations of a task by the name of the contender; the first is the one that is asked for figures."""
    config = load_config(f"retrieval/{task}")
    if task == "glyphs":
        return {"hierarchy": config, "flat": load_config("retrieval/glyphs_flat")}
    if task == "emoji":
        return {"multi-level": config, "single-level": single_level(config)}
    if task == "digits":
        return {"hierarchy": config}
    pairs = {f"{one}-{other}": pair_of(config, one, other) for one, other in PAIRS}
    return {"triples": config, **pairs}


PAIRS = tuple(combinations(("audio", "video", "text"), 2))


def single_level(config: RunConfig) -> RunConfig:
    """The same with contrast of whole samples alone."""
    return config.model_copy(update={"task": config.task.model_copy(update={"also": ()})})


def pair_of(config: RunConfig, one: str, other: str) -> RunConfig:
    """The same with two of its towers."""
    assert isinstance(config.task, ContrastiveConfig)
    towers = {name: tower for name, tower in config.towers.items() if name in (one, other)}
    also = tuple(
        pair.model_copy(update={"levels": {tower: level for tower, level in pair.levels.items() if tower in towers}})
        for pair in config.task.also
        if towers.keys() <= pair.levels.keys()
    )
    task = config.task.model_copy(update={"also": also})
    data = config.data.model_copy(update={"use": tuple(towers)})
    return config.model_copy(update={"towers": towers, "task": task, "data": data})


def train(task: str, name: str, config: RunConfig, home: Path, options: argparse.Namespace) -> Finished:
    """A contender's run, or the finished one that is there already."""
    minutes = 0.01 if options.quick else options.minutes or MINUTES[task]
    words = [*for_minutes(minutes, options.device), f"train.seed={options.seed}", *(QUICK if options.quick else [])]
    words.append(f"train.precision={precisions(FASTER, options.device)[task]}")
    return kept_or_trained(config, home / f"{task}-{name}", words)


def test_figures(run: Finished) -> dict[str, float]:
    """What the summary says of each way on the test split: ``text_to_image/R@1``."""
    metrics = run.summary["metrics"].items()
    figures = {name.removeprefix("test/"): value for name, value in metrics if name.startswith("test/")}
    return {
        name: float(value) for name, value in figures.items() if "_to_" in name and name.rpartition("/")[2] in FIGURES
    }


def near_duplicates(sentences: Sequence[str]) -> Tensor:
    """(N, N) bool: sentences that share :data:`SHARED` words in the same place or more; none is its own."""
    words = [sentence.split() for sentence in sentences]
    shared = [[sum(a == b for a, b in zip(one, other, strict=False)) for other in words] for one in words]
    return (torch.tensor(shared) >= SHARED) & ~torch.eye(len(words), dtype=torch.bool)


@torch.no_grad()
def by_level(run: TrainedRun, whole: str, *, near: bool) -> dict[str, float]:
    """Figures of the test samples by level and way, and by the sum of the similarities of all levels (``together``).

    Args:
        run: a trained one.
        whole: what whole samples are called.
        near: give figures without near-duplicates among the answers too; for samples that have all modalities.
    """
    dataset, task = build_dataset(run.config, "test"), run.task
    assert isinstance(task, Contrastive) and isinstance(run.config.task, ContrastiveConfig)
    samples = [dataset[index] for index in range(len(dataset))]
    blocks = [samples[first : first + BATCH] for first in range(0, len(samples), BATCH)]
    with autocast(run.config.train.precision, torch.device("cpu"))():
        collator = run.config.task.collator({}, run.tokenizers, None)
        batches = [task.encode(collator(block))[0] for block in blocks]
    near_NN = near_duplicates([str(sample.label) for sample in samples]) if near else None
    scores: dict[str, float] = {}
    sums: dict[str, list[Tensor]] = {}
    for index, view in enumerate(task.views):
        if view.pieces:
            continue
        pairs = view.pairs if view.name else task.pairs
        for one, other in [way for pair in pairs for way in (pair, pair[::-1])]:
            own, others = ([batch[index][tower] for batch in batches] for tower in (one, other))
            scores_QN = torch.cat([torch.cat([a.similarity(b, soft=view.soft) for b in others], 1) for a in own])
            groups_Q, groups_N = (torch.cat([part.groups for part in side]) for side in (own, others))
            right_QN = groups_Q[:, None] == groups_N[None]
            level = run.config.task.also[index - 1].levels[one] if view.name else whole
            scores |= _ways(f"{level}: {one}_to_{other}", scores_QN, right_QN, near_NN)
            sums.setdefault(f"{one}_to_{other}", []).append(scores_QN)
            if len(sums[f"{one}_to_{other}"]) > 1:
                total_QN = torch.stack(sums[f"{one}_to_{other}"]).sum(0)
                scores |= _ways(f"together: {one}_to_{other}", total_QN, right_QN, near_NN)
    return scores


def _ways(name: str, scores_QN: Tensor, right_QN: Tensor, near_QN: Tensor | None) -> dict[str, float]:
    kinds = {"": scores_QN}
    if near_QN is not None:
        kinds[", apart"] = scores_QN.masked_fill(near_QN, -torch.inf)
    return {
        f"{name}{kind}/{figure}": value
        for kind, scores_of_kind in kinds.items()
        for figure, value in rank_scores(scores_of_kind, right_QN).metrics().items()
        if figure in FIGURES
    }


def measured(task: str, run: Finished, folder: Path) -> Measured:
    """A contender's figures."""
    figures = test_figures(run)
    if task in WHOLE:
        sample_level = WHOLE[task]
        levels = by_level(load_task(folder, overrides=["train.device=cpu"]), sample_level, near=task == "grid")
        # Whole samples are in the summary; here they stand for a check that both say the same.
        ways = {name.partition("/")[0] for name in figures if name.count("/") == 1}
        for way in ways:
            if abs(levels[f"{sample_level}: {way}/R@1"] - figures[f"{way}/R@1"]) > DIFFERENCE:
                raise CheckFailed(f"{folder.name}, {way}: R@1 is {figures[f'{way}/R@1']:.3f} in the summary, not here")
        figures |= {
            name: value for name, value in levels.items() if "apart" in name or not name.startswith(sample_level)
        }
    sizes: Mapping[str, float] = scores(run, {})
    return Measured(seconds=run.summary["seconds"], bytes=run.summary["peak_memory_bytes"], scores={**figures, **sizes})


def lexical(task: str, folder: Path | None) -> dict[str, Measured]:
    """The lexical controls of a task and, if there is a run, their fusion with it.

    Args:
        task: one with pictures and texts.
        folder: of the run.
    """
    data = contenders(task)[next(iter(contenders(task)))].data
    controls_scores: dict[str, float] = {}
    hybrid: dict[str, float] = {}
    for picture in PICTURES[task]:
        controls = Controls(data.plain("train"), data.plain("test"), picture)
        controls_scores |= controls.scores()
        if folder is not None:
            similarities = controls.similarities(by_ngrams)
            for way, scores_QN in controls.of_run(Embedder.of(folder, device="cpu")).items():
                metrics = controls.ranked(fused(scores_QN, similarities[way]))
                hybrid |= {f"{way}/{name}": value for name, value in metrics.items()}
    measured: dict[str, dict[str, float]] = {name: {} for name in WAYS} | ({"hybrid": hybrid} if hybrid else {})
    for key, value in controls_scores.items():
        name, _, figure = key.partition(": ")
        measured[name][figure] = value
    return {
        name: Measured(
            seconds=None, scores={key: value for key, value in scores.items() if key.rpartition("/")[2] in FIGURES}
        )
        for name, scores in measured.items()
    }


def run(options: argparse.Namespace) -> Result:
    """Trains what is not there, and measures all.

    Raises:
        UserError: data is not there, or a run failed.
        CheckFailed: the flat control is not of the hierarchy's size.
    """
    tasks = options.only or (TASKS[:1] if options.quick else tuple(PICTURES) if options.controls else TASKS)
    _check_data(tasks)
    rows, checks = [], {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(options.runs or folder)
        home.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            selected = list(contenders(task).items())[: 0 if options.controls else 1 if options.first else None]
            runs = {name: train(task, name, config, home, options) for name, config in selected}
            figures = {name: measured(task, run, home / f"{task}-{name}") for name, run in runs.items()}
            if task == "glyphs" and len(runs) > 1:
                checks["parameters"] = _same_size(runs)
            if task in PICTURES and not options.quick:
                figures |= lexical(task, home / f"{task}-{selected[0][0]}" if selected else None)
            rows.append(Row(sizes={"task": task, "minutes": _minutes(task, options)}, contenders=figures, ratios={}))
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"seed": options.seed, "clock": "cpu" if options.device.type == "cpu" else "wall"},
        checks=checks,
        rows=rows,
        bars=[] if options.quick or options.controls else bars(rows),
        **environment(options.device),
    )


def _minutes(task: str, options: argparse.Namespace) -> float:
    return float(options.minutes or MINUTES[task])


def _check_data(tasks: Sequence[str]) -> None:
    needed = [FOLDERS[task] for task in tasks if task in FOLDERS]
    data = os.environ.get("HRT_MM_DATA")
    if needed and not data:
        raise UserError(f"HRT_MM_DATA is not set; name the folder that holds {', '.join(needed)}, or add --only glyphs")
    if missing := [folder for folder in needed if data and not (Path(data) / folder).is_dir()]:
        raise UserError(f"HRT_MM_DATA {data} has no {missing[0]}; add it, or leave its task out with --only")


def _same_size(runs: Mapping[str, Finished]) -> float:
    hierarchy, flat = (runs[name].summary["parameters"] for name in ("hierarchy", "flat"))
    difference = float(abs(flat / hierarchy - 1))
    if difference > TOLERANCE:
        raise CheckFailed(f"parameters differ by {difference:.1%}, more than {TOLERANCE:.0%}")
    return difference


GOALS = {
    "grid": ("GRID, sound and text of 100 test sentences, R@1 the worse way", ("audio_to_text", "text_to_audio"), 0.95),
    "emoji": ("emoji that were not trained on, Noto to EmojiTwo, R@1", ("noto_to_emojitwo",), 0.8),
}
"""By task, a claim, the ways that it is about, and what their R@1 must reach."""


def bars(rows: Sequence[Row]) -> list[Bar]:
    """What the project asks of itself."""
    goals = []
    for row in rows:
        if row.sizes["task"] in GOALS:
            claim, ways, goal = GOALS[str(row.sizes["task"])]
            best = next(iter(row.contenders.values())).scores
            value = min(best[f"{way}/R@1"] or 0.0 for way in ways)
            goals.append(Bar(claim=claim, goal=f"{goal:.0%} or more", measured=f"{value:.1%}", met=value >= goal))
    return goals


def tables(result: Result) -> str:
    """The result as Markdown."""
    parts = []
    for row in result.rows:
        sizes = ", ".join(
            f"{name} {measured.scores['parameters']:,.0f} parameters and {measured.scores['steps']:,.0f} steps"
            for name, measured in row.contenders.items()
            if "parameters" in measured.scores
        )
        body = [
            [name, way, *(_figure(measured.scores[f"{way}/{figure}"], figure) for figure in FIGURES)]
            for name, measured in row.contenders.items()
            for way in dict.fromkeys(key.rpartition("/")[0] for key in measured.scores if "/" in key)
        ]
        head = ["contender", "way", *(figure.replace("_", " ") for figure in FIGURES)]
        trained = f"{row.sizes['minutes']:g} minutes each: {sizes}" if sizes else "without training"
        parts.append(f"**{row.sizes['task']}**, {trained}.")
        parts.append(markdown(head, body))
    return "\n\n".join(parts)


def _figure(value: float | None, figure: str) -> str:
    if value is None:
        return ""
    if figure in ("queries", "answers"):
        return f"{value:,.0f}"
    return f"{value:.1f}" if figure == "median_rank" else f"{value:.2%}" if "chance" in figure else f"{value:.1%}"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--only", nargs="+", choices=TASKS, help="some of the tasks; all when absent")
    options.add_argument("--first", action="store_true", help="the first contender of each task alone")
    options.add_argument("--controls", action="store_true", help="lexical controls alone, without training")
    options.add_argument("--minutes", type=float, help="of each contender; 9, 15, 5 and 18 by task when absent")
    options.add_argument("--runs", type=Path, metavar="DIR", help="keep runs here, and take those that are there")
    options.add_argument("--seed", type=int, default=0, help="of the weights and the order; 0 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
