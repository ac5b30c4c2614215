"""Which learning rates train: a sweep of the hierarchy against its flat control on scikit-learn's handwritten digits.

Both are trained by the framework's own recipe (RMSNorm, QK-norm, residual branches that start at zero, warm-up,
clipping, AdamW, cosine) with nothing but the learning rate changed. The two take their steps in turns on the same
batches. A rate trains when the test accuracy, the mean over the seeds, is within two points of the best of its
contender. Before anything is trained, both models must equal themselves on the reference attention in float64.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrt_mm.analysis.control import num_parameters

from .checks import bound_of, must_equal
from .command import main, parser, positive
from .digits import Trainer, build, digits, model_config
from .markdown import markdown, milliseconds
from .memory import Memory, Prepared, Sizes, peak_bytes
from .models import randomised
from .results import Measured, Result, Row, environment

NAME = "learning_rate"
CONTENDERS = ("hierarchy", "flat")
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Half decades."""
TOLERANCE = 0.02
"""How far under a contender's best accuracy a rate still counts as one that trains."""


def prepare(contender: str, sizes: Sizes, settings: Mapping[str, Any]) -> Prepared:
    """A training step of a contender."""
    trainer = Trainer(contender, 1e-3, 0, settings)
    images_NCHW, labels_N = digits(train=True)
    batch = int(sizes["batch"])
    weights = sum(parameter.nbytes for parameter in trainer.task.parameters())
    trainer.step(images_NCHW[:batch], labels_N[:batch])
    return Prepared(lambda: trainer.step(images_NCHW[:batch], labels_N[:batch]), 3 * weights)


def check(settings: Mapping[str, Any]) -> dict[str, float]:
    """Relative differences of pooled vectors from the reference attention in float64.

    Raises:
        CheckFailed: one is too large.
    """
    images_NCHW, _ = digits(train=False)
    errors = {}
    for name in CONTENDERS:
        (task, tokenizer), (truth, _) = (
            build(name, settings["device"], backend=kind) for kind in ("auto", "reference")
        )
        for model in (task, truth):
            randomised(model)
        tokens = tokenizer(list(images_NCHW[:8])).to(settings["device"])
        with torch.no_grad():
            got = task.encoder(tokens).pooled()
            expected = truth.double().encoder(tokens.with_x(tokens.x.double())).pooled()
        title = f"{name}, pooled, against the reference attention in float64"
        errors[title] = must_equal(title, [got], [expected], bound_of(torch.float32))
    return errors


def run(options: argparse.Namespace) -> Result:
    """The sweep."""
    quick, device = options.quick, options.device
    steps = options.steps or (4 if quick else 300)
    settings: dict[str, Any] = {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "memory": options.memory,
        "steps": steps,
        "warmup_steps": min(50, steps // 2),
        "batch": 16 if quick else 32,
        "seeds": 1 if quick else options.seeds,
    }
    checks = check(settings)
    sizes: Sizes = {"batch": settings["batch"]}
    memory = {name: peak_bytes(NAME, prepare, name, sizes, {"batch": 8}, settings) for name in CONTENDERS}
    rates = (1e-3, 1e-1) if quick else RATES
    rows = [_row(rate, memory, settings) for rate in rates]
    settings["parameters"] = {name: num_parameters(model_config(name), axes=2) for name in CONTENDERS}
    return Result(
        name=NAME,
        command=options.command,
        quick=quick,
        settings=settings,
        checks=checks,
        rows=rows,
        details={"trains": {name: trains(rows, name) for name in CONTENDERS}},
        **environment(device),
    )


def _row(lr: float, memory: Mapping[str, Memory | None], settings: Mapping[str, Any]) -> Row:
    """Trains both contenders at a rate, with each seed."""
    finished: dict[str, list[Trainer]] = {name: [] for name in CONTENDERS}
    train, test = digits(train=True), digits(train=False)
    for seed in range(settings["seeds"]):
        trainers = {name: Trainer(name, lr, seed, settings) for name in CONTENDERS}
        order = torch.Generator().manual_seed(seed)
        for step in range(settings["steps"]):
            chosen = torch.randint(len(train[1]), (settings["batch"],), generator=order)
            for name in CONTENDERS if step % 2 else reversed(CONTENDERS):
                trainers[name].step(train[0][chosen], train[1][chosen])
        for name, trainer in trainers.items():
            finished[name].append(trainer)
    contenders = {name: _measured(result, test, memory[name]) for name, result in finished.items()}
    seconds = {name: one.seconds for name, one in contenders.items()}
    ratios = {}
    if seconds["flat"] and seconds["hierarchy"]:
        ratios["flat/hierarchy seconds"] = seconds["flat"] / seconds["hierarchy"]
    row = Row(sizes={"lr": lr, "steps": settings["steps"]}, contenders=contenders, ratios=ratios)
    print(f"lr {lr:g}: " + ", ".join(f"{name} {one.scores}" for name, one in contenders.items()), file=sys.stderr)
    return row


def _measured(trainers: list[Trainer], test: tuple[Tensor, Tensor], memory: Memory | None) -> Measured:
    seconds = [value for trainer in trainers for value in trainer.seconds]
    accuracies = [trainer.accuracy(*test) for trainer in trainers]
    stopped = sum(trainer.diverged for trainer in trainers)
    return Measured(
        seconds=statistics.median(seconds),
        bytes=memory.peak if memory else None,
        held_bytes=memory.held if memory else None,
        scores={"loss": _mean([trainer.final_loss for trainer in trainers]), "accuracy": _mean(accuracies)},
        note=f"{stopped} of {len(trainers)} runs stopped at a loss or gradient that was not finite" if stopped else "",
    )


def _mean(values: list[float | None]) -> float | None:
    """The mean, or ``None`` where a value is missing."""
    finite = [value for value in values if value is not None]
    return statistics.fmean(finite) if len(finite) == len(values) else None


def trains(rows: list[Row], contender: str) -> list[float]:
    """The rates whose accuracy is within the tolerance of the contender's best."""
    accuracies = [(float(row.sizes["lr"]), row.contenders[contender].scores["accuracy"]) for row in rows]
    best = max((accuracy for _, accuracy in accuracies if accuracy is not None), default=math.inf)
    return [lr for lr, accuracy in accuracies if accuracy is not None and accuracy >= best - TOLERANCE]


def tables(result: Result) -> str:
    """The result as Markdown."""
    settings = result.settings
    head = ["learning rate"]
    head += [f"{name}, {what}" for name in CONTENDERS for what in ("accuracy", "training loss", "ms a step")]
    body = []
    for row in result.rows:
        cells = [f"{row.sizes['lr']:g}"]
        for name in CONTENDERS:
            one = row.contenders[name]
            accuracy, loss = one.scores["accuracy"], one.scores["loss"]
            cells.append("stopped" if accuracy is None else f"{accuracy:.1%}")
            cells.append("" if loss is None else f"{loss:.3f}")
            cells.append(milliseconds(one))
        body.append(cells)
    ranges = (f"{name} at {_range(result.details['trains'][name])}" for name in CONTENDERS)
    return "\n\n".join(
        [
            f"{settings['steps']} steps of {settings['batch']} images, {settings['seeds']} seed(s), "
            f"{settings['parameters']['hierarchy'] / 1e6:.2f} M and {settings['parameters']['flat'] / 1e6:.2f} M "
            f"parameters. Within {TOLERANCE:.0%} of its own best accuracy: {'; '.join(ranges)}.",
            markdown(head, body),
        ]
    )


def _range(rates: list[float]) -> str:
    return "no rate" if not rates else ", ".join(f"{rate:g}" for rate in rates)


def picture(result: Result, path: Path) -> None:
    """Accuracy and loss over the learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, score in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
        for name, marker in zip(CONTENDERS, "os", strict=True):
            points = [(row.sizes["lr"], row.contenders[name].scores[score]) for row in result.rows]
            finite = [(lr, value) for lr, value in points if value is not None]
            axes.plot(*zip(*finite, strict=True), marker=marker, label=name) if finite else None
        axes.set(
            xscale="log", xlabel="learning rate", ylabel={"accuracy": "test accuracy", "loss": "training loss"}[score]
        )
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--steps", type=positive, help="optimizer steps a run; 300 when absent")
    options.add_argument("--seeds", type=positive, default=2, help="runs a rate")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables, picture=picture))
