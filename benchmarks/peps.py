"""Python Enhancement Proposals at full length: groups that documents give, against fixed strides, against flat.

What a document is (``type``) and what became of it (``status``) are told from its whole text, none of it cut. All
contenders read the same subwords, learned from the training documents, and train by ``hrt-mm train`` for the same
processor time on the same data with the same optimizer and batch, in the precision in which their steps are faster.
``given`` groups subwords by sentences and these by sections, as the documents have them; ``fixed`` by as many of either
as a group has on average; ``flat`` is the control of the same blocks, with attention over all subwords.

Classes are of very unequal size, so the figure is macro-F1 of the weights that were best on the validation part.
``HRT_MM_DATA`` names the folder that holds ``peps/``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import UserError
from hrt_modalities.corpora.peps import PepsConfig
from hrt_modalities.text import Text
from hrt_modalities.text.subwords import train_subwords

from .command import main, parser, positive
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import Finished, flat, for_minutes, precisions, scores, trained, written

NAME = "peps"
LABELS = ("type", "status")
GROUPS = {
    "given": (
        "{type: given, boundary: sentences, max: 64, typical: 32}",
        "{type: given, boundary: sections, max: 32, typical: 8}",
    ),
    "fixed": ("{type: fixed, stride: 32}", "{type: fixed, stride: 8}"),
}
"""By contender, how subwords and sentences are grouped."""
PRECISION = {"given": "fp32", "fixed": "bf16", "flat": "bf16"}
"""On a CPU."""
CONFIG = """
modality: {{type: text, subwords: "{subwords}"}}
model:
  levels:
    - {{name: subwords, dim: 64, depth: 1, heads: 2, window: 16, window_type: sliding, group: {fine}, pool: attention}}
    - name: sentences
      dim: 96
      depth: 1
      heads: 3
      window: 16
      window_type: sliding
      group: {coarse}
      pool: attention
    - {{name: sections, dim: 128, depth: 2, heads: 4}}
task: {{type: classification, level: sections, dropout: 0.2, balance: 0.5, monitor: macro_f1}}
data: {{type: peps, root: "{root}", label: {label}}}
optim: {{lr: 1.0e-3, warmup_steps: 20}}
train: {{steps: 1000, batch_size: 4, eval_every: 100, log_every: 1, seed: {seed}}}
"""


def config(name: str, label: str, subwords: Path, seed: int, folder: Path) -> RunConfig:
    """A contender's configuration."""
    fine, coarse = GROUPS.get(name, GROUPS["fixed"])
    file = folder / "draft.yaml"
    root = Path(os.environ["HRT_MM_DATA"]) / "peps"
    file.write_text(CONFIG.format(subwords=subwords, fine=fine, coarse=coarse, root=root, label=label, seed=seed))
    configuration = load_config(file)
    return flat(configuration) if name == "flat" else configuration


def train(name: str, label: str, subwords: Path, folder: Path, options: argparse.Namespace) -> Finished:
    """One contender on one label."""
    made = written(config(name, label, subwords, options.seed, folder), folder / f"{name}-{label}.yaml")
    words = for_minutes(0.02 if options.quick else options.minutes, options.device)
    # Reading the validation part takes the flat control most of the time that it has, so it does so once, at the end.
    words += ["train.eval_every=1000000"] if name == "flat" else []
    words += ["train.eval_batches=1", "train.test=false"] if options.quick else []
    words.append(f"train.precision={precisions(PRECISION, options.device)[name]}")
    return trained(made, folder / f"{name}-{label}", words)


def learned_subwords(folder: Path, vocabulary: int) -> Path:
    """Subwords of the training documents."""
    root = Path(os.environ["HRT_MM_DATA"]) / "peps"
    train = PepsConfig(type="peps", root=root).build("train")
    values = [train[index].value for index in range(len(train))]
    texts = [str(value.content) for value in values if isinstance(value, Text)]
    train_subwords(texts, vocabulary, folder / "subwords.json")
    return folder / "subwords.json"


def chance(label: str) -> dict[str, float]:
    """Accuracy and macro-F1 of the commonest class on the test part."""
    root = Path(os.environ["HRT_MM_DATA"]) / "peps"
    data = PepsConfig.model_validate({"type": "peps", "root": root, "label": label})
    splits = {split: data.build(split) for split in ("train", "test")}
    commonest = Counter(item for _, item, _ in splits["train"].rows).most_common(1)[0][0]
    labels = [item for _, item, _ in splits["test"].rows]
    share = labels.count(commonest) / len(labels)
    return {"accuracy": share, "macro_f1": 2 * share / (1 + share) / len(set(labels))}


def run(options: argparse.Namespace) -> Result:
    """Trains all contenders on both labels, one after another.

    Raises:
        UserError: the data is not there, or a run failed.
    """
    if not os.environ.get("HRT_MM_DATA"):
        raise UserError("HRT_MM_DATA is not set; name the folder that holds peps/")
    rows, curves = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subwords = learned_subwords(folder, 512 if options.quick else options.vocabulary)
        for label in LABELS[: 1 if options.quick else None]:
            contenders = [name for name in PRECISION if not (options.quick and name == "flat")]
            results = {name: train(name, label, subwords, folder, options) for name in contenders}
            split = "val" if options.quick else "test"
            metrics = {key: f"{split}/{key}" for key in ("macro_f1", "accuracy")}
            measured = {
                name: Measured(seconds=run.summary["seconds"], scores={**scores(run, metrics)})
                for name, run in results.items()
            }
            baselines = {f"majority {key}": value for key, value in chance(label).items()}
            rows.append(Row(sizes={"label": label, **baselines}, contenders=measured, ratios={}))
            curves[label] = {name: run.curve("val/macro_f1") for name, run in results.items()}
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"minutes": options.minutes, "vocabulary": options.vocabulary, "seed": options.seed}
        | {"precision": precisions(PRECISION, options.device)},
        checks={},
        rows=rows,
        bars=[] if options.quick else [bar for row in rows for bar in _bars(row)],
        details={"curves": curves},
        **environment(options.device),
    )


def _bars(row: Row) -> list[Bar]:
    f1s = {name: measured.scores["macro_f1"] or 0.0 for name, measured in row.contenders.items()}
    f1s["the commonest class"] = float(row.sizes["majority macro_f1"])
    return [
        Bar(
            claim=f"{row.sizes['label']}: macro-F1 with given groups, over {other}",
            goal=f"above {f1s[other]:.3f}",
            measured=f"{f1s['given']:.3f}",
            met=f1s["given"] > f1s[other],
        )
        for other in ("the commonest class", "fixed", "flat")
    ]


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["label", "groups", "macro-F1", "accuracy", "documents read", "steps", "parameters"]
    body = []
    for row in result.rows:
        shares = [f"{float(row.sizes[f'majority {key}']):.3f}" for key in ("macro_f1", "accuracy")]
        body.append([str(row.sizes["label"]), "the commonest class", *shares, "", "", ""])
        for name, measured in row.contenders.items():
            scores: dict[str, Any] = measured.scores
            shares = [f"{scores[key]:.3f}" for key in ("macro_f1", "accuracy")]
            sizes = [f"{scores[key]:,.0f}" for key in ("samples", "steps", "parameters")]
            body.append([str(row.sizes["label"]), name, *shares, *sizes])
    return (
        f"{result.settings['minutes']:g} minutes of processor time on one thread for each contender, 565 documents to "
        f"train on and 62 to test, none cut; {result.settings['vocabulary']:,} subwords:\n\n{markdown(head, body)}"
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--minutes", type=float, default=2.5, help="of each contender and label; 2.5 when absent")
    options.add_argument("--vocabulary", type=positive, default=4096, help="subwords; 4096 when absent")
    options.add_argument("--seed", type=int, default=0, help="of the weights and the order; 0 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
