"""A training step over a pretrained image encoder: trained, frozen, and with its features read from the cache.

The encoder is timm's ViT-S/16 with random weights, as weights do not change time and memory; above it are three levels.
A step is forward and backward over a batch of images that are tokenized already, in processor time of one thread;
contenders run in turns. Peak memory is what the resident memory grows by during a step, after all of them are timed.

- **check**: the outputs of a step with cached features are those without, within 1e-5 of the largest.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from torch import Tensor

from hrt_mm import FixedGroups, HierarchyConfig, Level
from hrt_mm.core.tokens import Tokens
from hrt_mm.tasks.batch import Batch
from hrt_mm.tasks.classification import Classification, ClassificationConfig
from hrt_modalities.vision import VisionConfig, VisionTokenizer

from .checks import CheckFailed
from .command import main, parser, positive
from .markdown import markdown
from .memory import Sizes, cpu_peak
from .results import Measured, Result, Row, environment

NAME = "pretrained"
CONTENDERS: dict[str, dict[str, bool]] = {
    "encoder trained": {},
    "encoder frozen": {"freeze": True},
    "frozen, features computed and cached": {"freeze": True, "cache": True},
    "frozen, features from the cache": {"freeze": True, "cache": True},
}
"""Settings of the stem, by contender."""
FILLED = "frozen, features from the cache"
MODEL = "vit_small_patch16_224"
QUICK_MODEL = "vit_tiny_patch16_224"
BOUND = 1e-5
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Parameters of ``mallopt`` in glibc."""


def build(contender: str, model: str, folder: str) -> tuple[Classification, VisionTokenizer]:
    """A contender's task, and its tokenizer.

    Args:
        contender: a key of :data:`CONTENDERS`.
        model: name in timm.
        folder: of the cache.
    """
    stem: dict[str, Any] = {"type": "timm", "name": model, "pretrained": False, **CONTENDERS[contender]}
    if "cache" in stem:
        stem["cache"] = {"dir": folder}
    levels = HierarchyConfig(
        levels=(
            Level(name="patches", dim=192, depth=1, heads=3, window=4, group=FixedGroups(stride=2), pool="conv"),
            Level(name="regions", dim=192, depth=1, heads=3, group=FixedGroups(stride=4), pool="mean"),
            Level(name="image", dim=192, depth=1, heads=3),
        )
    )
    config = VisionConfig.model_validate({"type": "vision", "size": 224, "patch": 16, "stem": stem})
    tokenizer = config.build_grid(levels)
    torch.manual_seed(0)
    return ClassificationConfig(type="classification").build(levels, tokenizer, ("a", "b")).train(), tokenizer


class Step:
    """A training step without an update.

    Args:
        contender: a key of :data:`CONTENDERS`.
        images: of a batch.
        model: name in timm.
    """

    def __init__(self, contender: str, images: int, model: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.contender = contender
        self.task, tokenizer = build(contender, model, self.folder.name)
        random = torch.Generator().manual_seed(0)
        self.tokens: Tokens = tokenizer(list(torch.rand(images, 3, 224, 224, generator=random)))
        if contender == FILLED:
            self()

    def __call__(self) -> Tensor:
        """The loss."""
        tokens = self.tokens
        if self.contender == "frozen, features computed and cached":
            # Other images at each step, as in a first epoch.
            tokens = self.tokens = tokens.with_x(tokens.x + 1e-3)
        labels = torch.arange(len(tokens)) % 2
        output = self.task(Batch.of(tokens, labels))
        output.loss.backward()
        self.task.zero_grad(set_to_none=True)
        loss: Tensor = output.loss.detach()
        return loss


def run(options: argparse.Namespace) -> Result:
    """Measures.

    Raises:
        CheckFailed: cached features change the outputs.
    """
    torch.set_num_threads(1)
    images, rounds = (2, 1) if options.quick else (options.images, options.rounds)
    model = QUICK_MODEL if options.quick else MODEL
    steps = {name: Step(name, images, model) for name in CONTENDERS}
    plain, cached = steps["encoder frozen"](), steps[FILLED]()
    difference = float((plain - cached).abs() / plain.abs())
    if difference > BOUND:
        raise CheckFailed(f"the loss with cached features differs by {difference:.1e}, more than {BOUND:.0e}")
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            # The first round warms up.
            seconds[name] += [time.process_time() - start] if number else []
    sizes: Sizes = {"images": images, "rounds": rounds}
    settings = {"model": model}
    if options.memory:
        # Blocks of 64 KiB and more go back to the system when they are freed.
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 1 << 16)
        libc.mallopt(_TRIM_THRESHOLD, 1 << 16)
    measured = {}
    for name in steps:
        median = statistics.median(seconds[name])
        peak = cpu_peak(steps[name]) if options.memory else None
        measured[name] = Measured(seconds=median, bytes=peak, scores={"images/s": images / median})
    ratios = {
        f"{name}/{FILLED}": statistics.median(a / b for a, b in zip(seconds[name], seconds[FILLED], strict=True))
        for name in steps
        if name != FILLED
    }
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings=settings,
        checks={"loss with and without cached features": difference},
        rows=[Row(sizes=sizes, contenders=measured, ratios=ratios)],
        **environment(options.device),
    )


def tables(result: Result) -> str:
    """The result as Markdown."""
    (row,) = result.rows
    ratio = row.ratios[f"encoder frozen/{FILLED}"]
    body = [
        [
            name,
            f"{1000 * (measured.seconds or 0) / int(row.sizes['images']):.1f} ms",
            "" if measured.bytes is None else f"{measured.bytes / 2**20:.0f} MiB",
        ]
        for name, measured in row.contenders.items()
    ]
    return "\n\n".join(
        [
            f"{row.sizes['images']} images of 224 pixels through `{result.settings['model']}`, processor time of one "
            f"thread, median of {row.sizes['rounds']} rounds. With cached features a step takes 1/{ratio:.0f} of the "
            "time of a frozen encoder.",
            markdown(["encoder", "step, per image", "peak memory of a step"], body),
        ]
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--images", type=positive, default=16, help="of a batch")
    options.add_argument("--rounds", type=positive, default=3)
    return options


if __name__ == "__main__":
    sys.exit(main(arguments(), run, tables))
