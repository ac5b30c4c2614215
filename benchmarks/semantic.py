"""Semantic segmentation of generated shapes: the hierarchy of ``vision/shapes`` against the flat control.

``hierarchy`` predicts pixels from patches that the top-down path gives the context of regions and areas; ``flat`` is
one level of patches with the same blocks and as many parameters, with attention over all patches. Both train by
``hrt-mm train`` on the same pictures with the same optimizer and batches, for the same processor time. The figure is
the mean IoU on 400 test pictures of the weights that were best on ``val``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from hrt_mm.config import load_config

from .command import main, parser
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import flat, for_minutes, kept_or_trained, scores

NAME = "semantic"
CONFIG = "vision/shapes"
METRICS = {"miou": "test/miou", "pixel_accuracy": "test/pixel_accuracy"}


def run(options: argparse.Namespace) -> Result:
    """Trains the contenders, one after another."""
    config = load_config(CONFIG, [f"train.seed={options.seed}"])
    configs = {"hierarchy": config, "flat": flat(config)}
    contenders, curves = {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        runs = options.runs or Path(temporary)
        for name, contender in configs.items():
            words = for_minutes(0.03 if options.quick else options.minutes, options.device)
            words += ["train.eval_every=200", "train.eval_batches=8"]
            words += ["data.held_out=64"] if options.quick else []
            finished = kept_or_trained(contender, runs / name, words)
            classes = {key.removeprefix("test/"): key for key in finished.summary["metrics"] if "test/iou/" in key}
            measured = scores(finished, METRICS | classes)
            contenders[name] = Measured(seconds=finished.summary["seconds"], scores={**measured})
            curves[name] = finished.curve("val/miou")
    best = {name: measured.scores["miou"] or 0.0 for name, measured in contenders.items()}
    bar = Bar(
        claim="mean IoU of the hierarchy, over flat",
        goal=f"above {best['flat']:.3f}",
        measured=f"{best['hierarchy']:.3f}",
        met=best["hierarchy"] > best["flat"],
    )
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"minutes": options.minutes, "seed": options.seed},
        checks={},
        rows=[Row(sizes={"pictures": 4000, "pixels": 48}, contenders=contenders, ratios={})],
        bars=[] if options.quick else [bar],
        details={"curves": curves},
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    (row,) = result.rows
    classes = [key for key in row.contenders["hierarchy"].scores if key.startswith("iou/")]
    head = [
        "model",
        "mean IoU",
        "pixel accuracy",
        *(key.removeprefix("iou/") for key in classes),
        "steps",
        "parameters",
    ]
    body = []
    for name, measured in row.contenders.items():
        values = {key: float(value or 0) for key, value in measured.scores.items()}
        shares = [f"{values[key]:.3f}" for key in ("miou", "pixel_accuracy", *classes)]
        body.append([name, *shares, f"{values['steps']:,.0f}", f"{values['parameters']:,.0f}"])
    minutes = f"{result.settings['minutes']:g} minutes of processor time on one thread for each model:"
    return f"{minutes}\n\n{markdown(head, body)}"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--minutes", type=float, default=4.0, help="of each model; 4 when absent")
    options.add_argument("--runs", type=Path, metavar="FOLDER", help="keeps the runs, and takes those that are there")
    options.add_argument("--seed", type=int, default=0, help="of the weights and the order; 0 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
