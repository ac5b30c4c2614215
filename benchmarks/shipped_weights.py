"""What weights that packages ship are worth to a hierarchy, beside the same encoders with random weights, and none.

* Speakers of FSDD (``HRT_MM_DATA/fsdd``) from a few recordings of each, in which the digits 0 to 4 are spoken. The test
  are the other digits, in recordings of the official test split. Weights: the speaker encoder of Resemblyzer.
* Kinds of questions (TREC) and film reviews (SST-2), of ``HRT_MM_DATA/sentences``, from some or all of the training
  texts. Weights: the word vectors of WordLlama.

All weights are frozen. The control has the same encoder, frozen as well, with random weights. The third contender has
none: log-mel frames, and learned embeddings of subwords that are trained on the training texts. The levels above are
equal, and each run has the same processor time. A tenth of the training part is left for validation, which chooses
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.train.loop import train
from hrt_mm.train.summary import read_summary
from hrt_modalities.common.tables import read_rows
from hrt_modalities.text import word_vectors
from hrt_modalities.text.subwords import train_subwords

from .command import main, parser
from .markdown import markdown
from .results import Measured, Result, Row, environment

NAME = "shipped_weights"
WAYS = ("weights", "random", "none")
CLIPS = (1, 5)
"""Recordings of each speaker."""
TEXTS = (200, None)
"""Training texts; all when ``None``."""
TASKS = ("speakers", "trec", "sst2")
SUBWORDS = 4000
QUICK_MINUTES = 0.005

SOUND = """
model:
  levels:
    - {name: frames, dim: 64, depth: 0, heads: 2, window: 16, group: {type: fixed, stride: 4}, pool: mean}
    - {name: words, dim: 96, depth: 1, heads: 3}
task: {type: classification, level: words, dropout: 0.3}
data: {type: audio_manifest, root: '${HRT_MM_DATA}/fsdd', file: FILE, label_column: speaker}
optim: {lr: 1.0e-3, warmup_steps: 20}
"""
TEXT = """
model:
  levels:
    - name: subwords
      dim: 128
      depth: 0
      heads: 4
      window: 32
      group: {type: given, boundary: words, max: 16, typical: 2}
      pool: mean
    - {name: words, dim: 128, depth: 1, heads: 4}
task: {type: classification, level: words, dropout: 0.3}
data: {type: documents, file: FILE}
optim: {lr: 1.0e-3, warmup_steps: 20}
"""
TRAIN = """
train: {precision: fp32, steps: 100000, eval_every: 100000, save_every: null, workers: 0,
  clock: cpu, num_threads: 1, device: cpu, tensorboard: false}
"""


def speakers(root: Path, clips: int, file: Path, seed: int) -> None:
    """Writes a table of some recordings of each speaker to train on, and of all others to test on."""
    rows = [row for _, row in read_rows(root / "index.tsv", ("path", "digit", "speaker", "split"), "FSDD's columns")]
    seen: dict[str, list[Mapping[str, Any]]] = {name: [] for name in sorted({row["speaker"] for row in rows})}
    for row in rows:
        if row["split"] == "train" and int(row["digit"]) < 5:
            seen[row["speaker"]].append(row)
    draw = random.Random(seed)
    lines = [(row, "test") for row in rows if row["split"] == "test" and int(row["digit"]) >= 5]
    for one in seen.values():
        chosen = draw.sample(one, clips + 1)
        lines += [(row, "train") for row in chosen[:-1]] + [(chosen[-1], "val")]
    text = "".join(f"{row['path']}\t{row['speaker']}\t{split}\n" for row, split in lines)
    file.write_text(f"path\tspeaker\tsplit\n{text}", encoding="utf-8")


def sentences(source: Path, texts: int | None, file: Path, seed: int) -> None:
    """Writes some of the training texts of a set, a tenth of them for validation, and its test texts."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    training = [row for row in rows if row["split"] == "train"]
    random.Random(seed).shuffle(training)
    training = training[:texts]
    held_out = len(training) // 10
    parts = {"val": training[:held_out], "train": training[held_out:]}
    parts["test"] = [row for row in rows if row["split"] == "test"]
    lines = [
        json.dumps({"text": row["text"], "label": str(row["label"]), "split": split})
        for split, part in parts.items()
        for row in part
    ]
    file.write_text("\n".join(lines), encoding="utf-8")


@contextmanager
def random_vectors(seed: int) -> Iterator[None]:
    """Inside, the vectors of WordLlama are random ones."""
    original = word_vectors.load
    library, vectors_VE = original()
    drawn_VE = torch.randn(vectors_VE.shape, generator=torch.Generator().manual_seed(seed))
    word_vectors.load = lambda: (library, drawn_VE)  # type: ignore[assignment]
    try:
        yield
    finally:
        word_vectors.load = original


def accuracy(
    body: str, modality: str, file: Path, minutes: float, seed: int, batch_size: int = 32
) -> tuple[float, int]:
    """Trains on a table, and returns the accuracy on its test part and the steps."""
    folder = Path(tempfile.mkdtemp(dir=file.parent))
    config = folder / "run.yaml"
    config.write_text(f"modality: {modality}\n{body.replace('FILE', str(file))}{TRAIN}", encoding="utf-8")
    options = [f"run.dir={folder / 'run'}", f"train.seed={seed}", f"train.time_limit={minutes}"]
    options.append(f"train.batch_size={batch_size}")
    summary = read_summary(train(load_config(config, options)) / "summary.json")
    measured = summary["metrics"]["test/accuracy"]
    assert measured is not None
    return float(measured), int(summary["steps"])


def sound_way(way: str) -> str:
    """The modality of a contender for sounds."""
    if way == "none":
        return "{type: audio, mels: 40, carried: []}"
    pretrained = "true" if way == "weights" else "false"
    return f"{{type: audio, carried: [], stem: {{type: resemblyzer, freeze: true, pretrained: {pretrained}}}}}"


def measure(task: str, size: int | None, data: Path, folder: Path, minutes: float, seed: int) -> dict[str, Any]:
    """Accuracy and steps of all contenders, with one choice of what is trained on."""
    file = folder / f"{task}-{size}-{seed}.{'tsv' if task == 'speakers' else 'jsonl'}"
    results = {}
    if task == "speakers":
        assert size is not None
        speakers(data / "fsdd", size, file, seed)
        for way in WAYS:
            results[way] = accuracy(SOUND, sound_way(way), file, minutes, seed, min(32, 6 * size))
    else:
        sentences(data / "sentences" / f"{task}.jsonl", size, file, seed)
        subwords = file.with_suffix(".subwords.json")
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        train_subwords((row["text"] for row in rows if row["split"] == "train"), SUBWORDS, subwords)
        shipped = "{type: text, word_vectors: wordllama}"
        results["weights"] = accuracy(TEXT, shipped, file, minutes, seed)
        with random_vectors(seed):
            results["random"] = accuracy(TEXT, shipped, file, minutes, seed)
        results["none"] = accuracy(TEXT, f"{{type: text, subwords: {subwords}}}", file, minutes, seed)
    shown = ", ".join(f"{way} {value:.1%}" for way, (value, _) in results.items())
    print(f"{task}, {size or 'all'}, seed {seed}: {shown}", file=sys.stderr, flush=True)
    return results


def run(options: argparse.Namespace) -> Result:
    """Trains all contenders on all tasks and sizes.

    Raises:
        UserError: the data or a package is missing.
    """
    data = os.environ.get("HRT_MM_DATA")
    if not data:
        raise UserError("HRT_MM_DATA is not set; name the folder that holds fsdd/index.tsv and sentences/trec.jsonl")
    if options.device.type != "cpu":
        raise UserError("this benchmark trains on one CPU thread; add --device cpu")
    minutes = QUICK_MINUTES if options.quick else options.minutes
    sizes: list[tuple[str, int | None]] = []
    for task in options.tasks:
        of_task: Sequence[int | None] = CLIPS if task == "speakers" else TEXTS
        sizes += [(task, size) for size in (of_task[:1] if options.quick else of_task)]
    seeds = 1 if options.quick else options.seeds
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for task, size in sizes:
            results = [
                measure(task, size, Path(data), Path(name), minutes, seed)
                for seed in range(1 if size is None else seeds)
            ]
            contenders = {
                way: Measured(
                    seconds=60 * minutes,
                    scores={
                        "test/accuracy": fmean(result[way][0] for result in results),
                        "lowest": min(result[way][0] for result in results),
                        "steps": fmean(result[way][1] for result in results),
                    },
                )
                for way in WAYS
            }
            shown: dict[str, int | float | str] = {"task": task, "trained on": size or "all", "runs": len(results)}
            rows.append(Row(sizes=shown, contenders=contenders, ratios={}))
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"minutes": minutes, "clock": "cpu"},
        checks={},
        rows=rows,
        **environment(options.device),
    )


TITLES = {"speakers": "6 speakers of FSDD", "trec": "TREC, 6 kinds of questions", "sst2": "SST-2, 2 classes"}
COUNTED = {"speakers": "recordings a speaker", "trec": "questions", "sst2": "reviews"}


def tables(result: Result) -> str:
    """The result as Markdown."""
    body = []
    for row in result.rows:
        task = str(row.sizes["task"])
        cells = [f"{row.contenders[way].scores['test/accuracy']:.1%}" for way in WAYS]
        body.append([TITLES[task], f"{COUNTED[task]}: {row.sizes['trained on']}", f"{row.sizes['runs']}", *cells])
    minutes = float(result.settings["minutes"])
    return "\n\n".join(
        [
            f"Accuracy on the test part after {60 * minutes:g} processor seconds. It is the mean where there are "
            "several runs, each of which draws what is trained on:",
            markdown(["task", "trained on", "runs", "shipped weights, frozen", "random weights, frozen", "none"], body),
        ]
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--minutes", type=float, default=0.15, help="of computing for each run; 0.15 when absent")
    options.add_argument("--seeds", type=int, default=2, help="runs for each size but all; 2 when absent")
    options.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="all when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
