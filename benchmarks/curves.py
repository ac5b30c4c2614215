"""What contenders know after how much computing: their accuracy on samples that are not trained on, at equal time.

All train on the same batches in the same order on one thread, with AdamW and a schedule that follows the time that is
gone. Each takes the learning rate that is best for it in a short trial. Evaluation does not count.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrt_mm import Tokens
from hrt_mm.config import RunConfig
from hrt_mm.train.build import Data, build_data
from hrt_mm.train.sampler import Position, Sampler
from hrt_mm.train.seeding import forked

from .markdown import markdown

TRIAL = 0.25
"""A trial's part of the whole time."""
POINTS = 4
"""Of each curve."""
Held = list[tuple[Tokens, Tensor]]


class Classifier(nn.Module):
    """An encoder of raw tokens, and a linear head."""

    def __init__(self, encoder: nn.Module, width: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder, self.dropout = encoder, nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tokens) -> Tensor:
        """(B, K) logits."""
        logits_BK: Tensor = self.head(self.dropout(self.encoder(tokens)))
        return logits_BK


def curves(
    config: RunConfig,
    contenders: Mapping[str, Callable[[Data], Classifier]],
    seconds: float,
    rates: Sequence[float],
    length: Callable[[Any], int],
    *,
    quick: bool = False,
) -> dict[str, Any]:
    """Trains each contender for a time.

    Args:
        config: the data, the batch and the optimizer of all.
        contenders: by name, what makes one.
        seconds: of computing on one thread.
        rates: learning rates to be tried.
        length: of a sample's value, so that held-out samples of like length share a batch.
        quick: one learning rate and two points.

    Returns:
        By contender the learning rate, the parameters and the curve: [seconds, steps, accuracy on the test split].
    """
    results = {}
    rates = rates[:1] if quick else rates
    with one_thread():
        data = build_data(config, ["train", "val", "test"])
        evaluation = {split: whole(data, config, split, length) for split in ("val", "test")}
        for name, build in contenders.items():
            trials = {}
            for rate in rates if len(rates) > 1 else ():
                (point,) = trained(made(build, data), data, config, rate, TRIAL * seconds, evaluation["val"], 1)
                trials[rate] = point[2]
            best = max(trials, key=lambda rate: trials[rate]) if trials else rates[0]
            model = made(build, data)
            curve = trained(model, data, config, best, seconds, evaluation["test"], 2 if quick else POINTS)
            size = sum(item.numel() for item in model.parameters())
            results[name] = {"rate": best, "trials": trials, "parameters": size, "curve": curve}
            print(f"{name}: {curve[-1][2]:.1%} after {curve[-1][0]:.0f} s", file=sys.stderr, flush=True)
    return results


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread inside the ``with``: then the time of the process is that of the training."""
    previous = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def made(build: Callable[[Data], Classifier], data: Data) -> Classifier:
    """A contender with fresh weights, always the same ones."""
    with forked():
        torch.manual_seed(0)
        return build(data)


def trained(
    model: Classifier, data: Data, config: RunConfig, rate: float, seconds: float, evaluation: Held, points: int
) -> list[list[float]]:
    """Trains for a time of computing, and returns as many points of the curve."""
    options, maker = config.train, data.maker(config, "train")
    assert options.batch_size is not None
    plans = Sampler(len(data.splits["train"]), seed=0, batch_size=options.batch_size).plans(Position())
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=config.optim.weight_decay, fused=True)
    smoothing = float(getattr(config.task, "label_smoothing", 0.0))
    curve: list[list[float]] = []
    spent = 0.0
    with forked():
        torch.manual_seed(0)
        for steps, plan in enumerate(plans, 1):
            started = time.process_time()
            batch = maker[plan].batch
            assert batch is not None and batch.target is not None
            factor = min(1.0, steps / config.optim.warmup_steps) * (1 + math.cos(math.pi * min(1, spent / seconds))) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            logits_BK = model(batch.tokens)
            functional.cross_entropy(logits_BK, batch.target, label_smoothing=smoothing).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            spent += time.process_time() - started
            if spent >= seconds * (len(curve) + 1) / points:
                curve.append([round(spent, 2), steps, accuracy(model, evaluation)])
            if spent >= seconds:
                return curve
    raise AssertionError("plans have no end")


def whole(data: Data, config: RunConfig, split: str, length: Callable[[Any], int]) -> Held:
    """A split's samples as raw tokens, with the places of their classes, in batches of samples of like length."""
    dataset, collator = data.splits[split], data.maker(config, split).collator
    samples = [dataset[index] for index in range(len(dataset))]
    samples.sort(key=lambda sample: length(sample.value))
    batches = []
    for first in range(0, len(samples), 32):
        part = samples[first : first + 32]
        batch = collator(part)
        assert batch.target is not None
        batches.append((batch.tokens, batch.target))
    return batches


def accuracy(model: Classifier, evaluation: Held) -> float:
    """On samples that are not trained on."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(tokens).argmax(-1) == target).sum()) for tokens, target in evaluation)
    model.train()
    return right / sum(len(target) for _, target in evaluation)


def table(results: dict[str, Any], what: str) -> str:
    """The curves as Markdown, and of what the accuracy is."""
    first = next(iter(results.values()))["curve"]
    head = ["contender", "parameters", "learning rate", "steps", *(f"after {point[0]:.0f} s" for point in first)]
    body = [
        [
            name,
            f"{item['parameters']:,}",
            f"{item['rate']:g}",
            f"{item['curve'][-1][1]:,.0f}",
            *(f"{point[2]:.1%}" for point in item["curve"]),
        ]
        for name, item in results.items()
    ]
    return f"Accuracy on {what}, by seconds of computing on one thread:\n\n{markdown(head, body)}"
