"""tinyshakespeare: nats per character on the last tenth against training time, beside nanoGPT's flat transformer.

``hrt-mm train`` trains ``text/tinyshakespeare_cpu`` on a CPU, where minutes are those of the processor in training, and
``text/tinyshakespeare`` on a GPU. Every evaluation reads the whole validation part, each byte from what comes before it
in windows of ``data.context`` bytes. The text is ASCII, so a byte is a character. nanoGPT's figure, 1.47 nats with 10.7
million parameters, is that of its own configuration trained to its best validation loss on a GPU.

The data is real: ``HRT_MM_DATA`` names the folder that holds ``text_small/``.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from pathlib import Path

from hrt_mm.core.errors import UserError

from .command import main, parser
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import for_minutes, scores, trained

NAME = "shakespeare"
CONFIGS = {"cpu": "text/tinyshakespeare_cpu", "cuda": "text/tinyshakespeare"}
KNOWN, KNOWN_PARAMETERS = 1.47, 10.7e6
"""nanoGPT's validation loss in nats a character, and its size."""
QUICK = ["data.context=64", "train.batch_size=2", "train.eval_batches=4"]
MARKS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Parts of the time that the table looks at."""


def run(options: argparse.Namespace) -> Result:
    """Trains, and reads the curve.

    Raises:
        UserError: the data is not there, or the run failed.
    """
    if not os.environ.get("HRT_MM_DATA"):
        raise UserError("HRT_MM_DATA is not set; name the folder that holds text_small/")
    config = options.config or CONFIGS[options.device.type]
    minutes = 0.05 if options.quick else options.minutes
    words = [*for_minutes(minutes, options.device), *(QUICK if options.quick else ()), *options.override]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(options.keep or folder)
        home.mkdir(parents=True, exist_ok=True)
        done = trained(config, home / "run", words)
    curve = [[seconds, steps, bits * math.log(2)] for seconds, steps, bits in done.curve("val/bits_per_byte")]
    metrics = scores(done, {}) | {"nats": done.metric("val/bits_per_byte") * math.log(2)}
    rows = []
    nearest = (min(curve, key=lambda point: abs(point[0] - mark * 60 * minutes)) for mark in MARKS)
    for seconds, steps, nats in sorted({tuple(point) for point in nearest}):
        measured = Measured(seconds=seconds, scores={"nats": nats, "steps": steps})
        rows.append(Row(sizes={"minutes": round(seconds / 60, 2)}, contenders={"hierarchy": measured}, ratios={}))
    nats, size = metrics["nats"], metrics["parameters"]
    bars = [
        Bar(claim="nats a character", goal=f"below {KNOWN}", measured=f"{nats:.3f}", met=nats < KNOWN),
        Bar(claim="parameters", goal="10.7 M or less", measured=f"{size / 1e6:.1f} M", met=size <= KNOWN_PARAMETERS),
    ]
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"config": config, "minutes": minutes, "overrides": options.override, "best": metrics},
        checks={},
        rows=rows,
        bars=[] if options.quick else bars,
        details={"curve": curve, "precision": done.summary["precision"]},
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    best = result.settings["best"]
    body = [
        [
            f"{(row.contenders['hierarchy'].seconds or 0) / 60:.1f}",
            f"{row.contenders['hierarchy'].scores['steps']:,.0f}",
            f"{row.contenders['hierarchy'].scores['nats']:.3f}",
        ]
        for row in result.rows
    ]
    text = (
        f"`{result.settings['config']}`, {best['parameters']:,.0f} parameters, {result.details['precision']}: "
        f"best {best['nats']:.3f} nats a character; {best['samples']:,.0f} windows, {best['seconds'] / 60:.1f} minutes."
    )
    return f"{text}\n\n{markdown(['minutes', 'steps', 'nats a character'], body)}"


def picture(result: Result, file: Path) -> None:
    """Draws the curve, and nanoGPT's figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    seconds, _, nats = zip(*result.details["curve"], strict=True)
    axes.plot([second / 60 for second in seconds], nats, marker="o", markersize=3, linewidth=2, label="hierarchy")
    axes.axhline(KNOWN, color="0.4", linestyle="--", label=f"nanoGPT on a GPU, at its best: {KNOWN}")
    axes.set(xlabel="minutes of training", ylabel="nats a character, held out", ylim=(1.3, min(3.2, max(nats) + 0.05)))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--minutes", type=float, default=11.0, help="training time; 11 when absent")
    options.add_argument("--config", help="a configuration in place of the device's own")
    options.add_argument("--keep", type=Path, metavar="DIR", help="folder that keeps the run")
    options.add_argument("override", nargs="*", metavar="KEY=VALUE", help="settings of the run")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables, picture=picture))
