"""Classifying short texts and film reviews from scratch: ``text/documents``, flat attention, and TF-IDF.

Each data set trains ``text/documents`` by ``hrt-mm train`` for some minutes of processor time on one thread (wall-clock
time on a GPU), and its flat control, which has the same embedding, blocks and parameters over all bytes at one level.
The linear model is scikit-learn's logistic regression over TF-IDF of words and pairs of words, with the strength that
is best on the validation part. Test parts are the given ones, or the first of ten folds; a twentieth of the rest is for
validation where none is given. ``HRT_MM_DATA`` names the folder that holds ``sentences/`` and ``imdb/``.

Kim's CNN-rand (arXiv 1408.5882, table 2) is the published convolutional network without pretrained vectors. On sst5 and
sst2 it was also trained on the labelled phrases of the sentences, which the models here do not have.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import UserError

from .command import main, parser, positive
from .markdown import markdown
from .results import Measured, Result, Row, environment
from .runs import Finished, flat, for_minutes, kept_or_trained, scores

NAME = "sentences"
CNN_RAND = {
    "movie_reviews": 76.1,
    "sst5": 45.0,
    "sst2": 82.7,
    "subjectivity": 89.6,
    "trec": 91.2,
    "customer_reviews": 79.8,
    "mpqa": 83.4,
}
"""Accuracy in percent, by data set."""
SETS = (*CNN_RAND, "imdb")
CONTENDERS = ("hierarchy", "flat", "tf-idf")
FOLDS, VALIDATION = 10, 20
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
TOKEN = r"\w+|[^\w\s]"
Item = TypeVar("Item")
QUICK = ["train.eval_every=1000000", "train.eval_batches=1"]


@dataclass(frozen=True)
class Texts:
    """Labelled texts by split.

    Args:
        rows: (text, label, split) of each.
    """

    rows: Sequence[tuple[str, str, str]]

    def split(self, name: str) -> tuple[list[str], list[str]]:
        """Texts and labels of a split."""
        rows = [(text, label) for text, label, split in self.rows if split == name]
        return [text for text, _ in rows], [label for _, label in rows]

    def with_fewer_tests(self, count: int) -> Texts:
        """The same with at most so many test samples, evenly spaced, as files are often sorted by class."""
        chosen = evenly_spaced([row for row in self.rows if row[-1] == "test"], count)
        return Texts([*(row for row in self.rows if row[-1] != "test"), *chosen])

    def write(self, file: Path) -> None:
        """Writes a table that ``data.type: documents`` reads."""
        keys = ("text", "label", "split")
        file.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in self.rows))


def evenly_spaced(items: Sequence[Item], count: int) -> list[Item]:
    """At most so many of the items, evenly spaced."""
    spacing = max(1.0, len(items) / count)
    return [items[int(index * spacing)] for index in range(min(count, len(items)))]


def texts(name: str, root: Path, fold: int = 0) -> Texts:
    """A data set with its splits.

    Args:
        name: one of ``SETS``.
        root: folder of the data.
        fold: for testing, where the data has folds.
    """
    rows: list[tuple[str, str, str]] = []
    names = {"dev": "val"}
    if name == "imdb":
        for split in ("train", "test"):
            for line in (root / "imdb" / f"{split}.jsonl").read_text(encoding="utf-8").strip().split("\n"):
                entry = json.loads(line)
                rows.append((entry["text"], entry["label"], split))
    else:
        for line in (root / "sentences" / f"{name}.jsonl").read_text(encoding="utf-8").strip().split("\n"):
            entry = json.loads(line)
            given = entry["split"] or ("test" if entry["fold"] == fold else "train")
            rows.append((entry["text"], str(entry["label"]), names.get(given, given)))
    if not any(split == "val" for *_, split in rows):
        train = [index for index, (*_, split) in enumerate(rows) if split == "train"]
        for index in train[::VALIDATION]:
            rows[index] = (*rows[index][:2], "val")
    return Texts(rows)


def linear(data: Texts) -> Measured:
    """Logistic regression over TF-IDF, with its processor time."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    begun = time.process_time()
    (train, labels), (val, val_labels), (test, test_labels) = (data.split(name) for name in ("train", "val", "test"))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=TOKEN, sublinear_tf=True)
    train_XF, val_XF = vectorizer.fit_transform(train), vectorizer.transform(val)
    models = [LogisticRegression(C=strength, max_iter=1000).fit(train_XF, labels) for strength in STRENGTHS]
    best = max(models, key=lambda model: float(model.score(val_XF, val_labels)))
    accuracy = float(best.score(vectorizer.transform(test), test_labels))
    return Measured(seconds=time.process_time() - begun, scores={"accuracy": accuracy})


def run(options: argparse.Namespace) -> Result:
    """Trains what is not there, and measures all.

    Raises:
        UserError: the data is not there, or a run failed.
    """
    if not os.environ.get("HRT_MM_DATA"):
        raise UserError("HRT_MM_DATA is not set; name the folder that holds sentences/ and imdb/")
    with tempfile.TemporaryDirectory() as scratch:
        home = options.runs or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        rows = [_row(name, home, options) for name in options.sets]
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"minutes": options.minutes, "imdb_minutes": options.imdb_minutes, "seed": options.seed},
        checks={},
        rows=rows,
        **environment(options.device),
    )


def _row(name: str, home: Path, options: argparse.Namespace) -> Row:
    data = texts(name, Path(os.environ["HRT_MM_DATA"]), options.fold)
    table = home / f"{name}.jsonl"
    if name == "imdb" and options.imdb_test is not None:
        data = data.with_fewer_tests(options.imdb_test)
        table = home / f"{name}-{options.imdb_test}.jsonl"
    if not table.exists():
        data.write(table)
    config = load_config("text/documents", ["data.root=null", f"data.file={table}"])
    contenders: dict[str, Measured] = {}
    for contender in options.contenders:
        if contender == "tf-idf":
            contenders[contender] = linear(data)
            continue
        finished = _trained(name, contender, config, home, options)
        split = "val" if options.quick else "test"
        measured = scores(finished, {"accuracy": f"{split}/accuracy"})
        contenders[contender] = Measured(seconds=finished.summary["seconds"], scores={**measured})
    sizes: dict[str, int | float | str] = {"data": name}
    sizes |= {f"{split} samples": len(data.split(split)[0]) for split in ("train", "val", "test")}
    return Row(sizes=sizes, contenders=contenders, ratios={})


def _trained(name: str, contender: str, config: RunConfig, home: Path, options: argparse.Namespace) -> Finished:
    minutes = 0.01 if options.quick else options.imdb_minutes if name == "imdb" else options.minutes
    words = [*for_minutes(minutes, options.device), f"train.seed={options.seed}", *(QUICK if options.quick else [])]
    if options.quick:
        words.append("train.test=false")
    made = flat(config) if contender == "flat" else config
    return kept_or_trained(made, home / f"{name}-{contender}", words)


def tables(result: Result) -> str:
    """The result as Markdown."""
    settings = result.settings
    names = [name for name in CONTENDERS if any(name in row.contenders for row in result.rows)]
    body = []
    for row in result.rows:
        figures = [row.contenders[name].scores["accuracy"] if name in row.contenders else None for name in names]
        published = CNN_RAND.get(str(row.sizes["data"]))
        body.append(
            [
                str(row.sizes["data"]),
                *(f"{row.sizes[f'{split} samples']:,}" for split in ("train", "test")),
                *("-" if figure is None else f"{figure:.1%}" for figure in figures),
                "-" if published is None else f"{published:.1f}%",
            ]
        )
    heads = ["data", "train", "test", *names, "CNN-rand, published"]
    return (
        f"Test accuracy after {settings['minutes']:g} minutes of processor time on one thread for `hierarchy` and "
        f"`flat` ({settings['imdb_minutes']:g} on IMDb), one seed:\n\n{markdown(heads, body)}"
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="data sets; all when absent")
    options.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="all when absent"
    )
    options.add_argument("--minutes", type=float, default=2.0, help="of each run; 2 when absent")
    options.add_argument("--imdb-minutes", type=float, default=20.0, help="of each run on IMDb; 20 when absent")
    options.add_argument(
        "--imdb-test",
        type=positive,
        help="IMDb's test reviews, evenly spaced; all when absent. The flat control is slow on them",
    )
    options.add_argument("--fold", type=int, choices=range(FOLDS), default=0, help="for testing; the first when absent")
    options.add_argument("--seed", type=int, default=0, help="of the weights and the order; 0 when absent")
    options.add_argument("--runs", type=Path, help="folder of the runs, which keeps them; finished ones are not redone")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
