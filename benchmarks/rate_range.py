"""Which learning rates train a packaged configuration of each modality, at equal processor time.

Each configuration trains by ``hrt-mm train`` once a rate, with nothing else changed. A rate trains where the test
accuracy is within ``TOLERANCE`` of the configuration's best. ``text/documents`` classifies the questions of TREC
(``HRT_MM_DATA`` names the folder that holds ``sentences/``), with the n-gram vectors of its bytes and without them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from hrt_mm.config import RunConfig, load_config
from hrt_mm.core.errors import UserError

from .command import main, parser
from .markdown import markdown
from .results import Measured, Result, Row, environment
from .runs import for_minutes, kept_or_trained
from .sentences import texts

NAME = "rate_range"
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""Half decades."""
MINUTES = {
    "text/documents": 0.5,
    "text/documents, no n-grams": 0.5,
    "vision/digits": 0.3,
    "audio/synthetic": 0.5,
    "video/actions": 1.0,
}
"""Processor time of each run."""
TOLERANCE = 0.03
QUICK = ["train.batch_size=2", "optim.warmup_steps=1", "train.eval_batches=1", "train.test=false"]


def configuration(name: str, home: Path) -> RunConfig:
    """A packaged configuration with its data.

    Raises:
        UserError: it needs ``HRT_MM_DATA``, which is not set.
    """
    if not name.startswith("text/documents"):
        return load_config(name)
    if not os.environ.get("HRT_MM_DATA"):
        raise UserError("HRT_MM_DATA is not set; name the folder that holds sentences/, or leave out text by --configs")
    table = home / "trec.jsonl"
    if not table.exists():
        texts("trec", Path(os.environ["HRT_MM_DATA"])).write(table)
    without = ["modality.ngrams=null"] if name.endswith("no n-grams") else []
    return load_config("text/documents", ["data.root=null", f"data.file={table}", *without])


def run(options: argparse.Namespace) -> Result:
    """Trains what is not there, one run after another."""
    names = options.configs or list(MINUTES)
    rates = (1e-3, 1e-2) if options.quick else RATES
    with tempfile.TemporaryDirectory() as scratch:
        home = options.runs or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        rows = [_row(name, rates, home, options) for name in names]
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"minutes": {name: MINUTES[name] for name in names}, "rates": list(rates), "seed": options.seed},
        checks={},
        rows=rows,
        **environment(options.device),
    )


def _row(name: str, rates: tuple[float, ...], home: Path, options: argparse.Namespace) -> Row:
    config = configuration(name, home)
    minutes = 0.01 if options.quick else MINUTES[name]
    contenders = {}
    for rate in rates:
        # Processor time does not see what loader workers compute.
        words = [*for_minutes(minutes, options.device), "train.workers=0", f"train.seed={options.seed}"]
        words.append(f"optim.lr={rate:g}")
        # Only the last weights count: the best of many evaluations would hide that a rate is unsteady.
        words += ["train.eval_every=1000000", *(QUICK if options.quick else [])]
        folder = home / f"{name.replace('/', '-').replace(', ', '-').replace(' ', '-')}-{rate:g}"
        try:
            summary = kept_or_trained(config, folder, words).summary
        except UserError as error:
            if "not finite" not in str(error):
                raise
            contenders[f"{rate:g}"] = Measured(seconds=None, scores={"accuracy": None}, note="the loss was not finite")
            continue
        accuracy = summary["metrics"]["val/accuracy" if options.quick else "test/accuracy"]
        contenders[f"{rate:g}"] = Measured(
            seconds=summary["seconds"], scores={"accuracy": accuracy, "steps": float(summary["steps"])}
        )
        print(f"{name}, lr {rate:g}: {accuracy:.1%}", file=sys.stderr, flush=True)
    return Row(sizes={"config": name, "minutes": minutes}, contenders=contenders, ratios={})


def trains(row: Row) -> list[str]:
    """The rates whose accuracy is within the tolerance of the best."""
    accuracies = {rate: one.scores["accuracy"] for rate, one in row.contenders.items()}
    best = max((accuracy for accuracy in accuracies.values() if accuracy is not None), default=0.0)
    return [rate for rate, value in accuracies.items() if value is not None and value >= best - TOLERANCE]


def tables(result: Result) -> str:
    """The result as Markdown."""
    rates = [f"{rate:g}" for rate in result.settings["rates"]]
    body = []
    for row in result.rows:
        accuracies = [row.contenders[rate].scores["accuracy"] for rate in rates]
        cells = ["diverged" if accuracy is None else f"{accuracy:.1%}" for accuracy in accuracies]
        body.append([str(row.sizes["config"]), f"{row.sizes['minutes']:g}", *cells, ", ".join(trains(row))])
    head = ["configuration", "minutes a run", *rates, f"within {TOLERANCE:.0%} of the best"]
    return f"Test accuracy by learning rate, one seed:\n\n{markdown(head, body)}"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--configs", nargs="+", choices=list(MINUTES), metavar="NAME", help="all when absent")
    options.add_argument("--seed", type=int, default=0, help="of the weights and the order; 0 when absent")
    options.add_argument("--runs", type=Path, help="folder of the runs, which keeps them; finished ones are not redone")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
