"""Decoding: tokens a second and memory after prompts of growing length, against the flat control with its cache.

Both have equal parameters and depth. Prompts run through the forward pass at once; then tokens are stepped one by one,
all samples of a batch together. Before anything is timed, steps must equal the forward pass.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hrt_mm import Tokens
from hrt_mm.analysis.control import flat_control
from hrt_mm.core.hierarchy import Hierarchy
from hrt_mm.core.levels import HierarchyConfig
from hrt_mm.core.spans import Spans
from hrt_mm.inference.generation import Cache, prefill, step

from .checks import must_equal
from .command import main, numbers, parser
from .lm import hierarchy_config
from .markdown import markdown, times
from .models import randomised
from .results import Bar, Measured, Result, Row, environment
from .timing import race

NAME = "decode"
CONTENDERS = ("hierarchy", "flat")
STEPS = 16
"""Tokens of a round: two groups of the hierarchy, so that each round has the same work."""
FASTER, LONG, SHORT = 3.0, 16384, 1024
"""How much faster than flat it must be after a long prompt; after a short one, no slower."""


def configs(quick: bool) -> dict[str, HierarchyConfig]:
    """The contenders: those of the language-model benchmark."""
    config = hierarchy_config(128 if quick else 2048)
    return {"hierarchy": config, "flat": flat_control(config)}


def model_of(config: HierarchyConfig, device: torch.device) -> Hierarchy:
    """A contender with random weights."""
    torch.manual_seed(0)
    model = Hierarchy(config)
    randomised(model)
    return model.to(device).eval()


def prompts(batch: int, length: int, width: int, device: torch.device) -> Tokens:
    """Random tokens."""
    generator = torch.Generator().manual_seed(1)
    spans = Spans.from_lengths([length] * batch, device)
    x_TD = torch.randn(spans.total, width, generator=generator).to(device)
    return Tokens(x_TD, spans, spans.positions[:, None].float())


def check(config: HierarchyConfig, device: torch.device, name: str) -> float:
    """Relative difference of steps from the forward pass.

    Raises:
        CheckFailed: it is too large.
    """
    model = model_of(config, device)
    width = config.levels[0].dim
    tokens = prompts(2, 96, width, device)
    x_BND = tokens.x.unflatten(0, (2, 96))
    with torch.inference_mode():
        expected_BND = model(tokens)[0].x.unflatten(0, (2, 96))
        begin = Tokens(
            x_BND[:, :61].flatten(0, 1), Spans.from_lengths([61] * 2, device), prompts(2, 61, width, device).coords_TC
        )
        _, cache = prefill(model, begin)
        stepped = torch.stack([step(model, x_BND[:, position], cache) for position in range(61, 96)], 1)
    return must_equal(f"{name}, steps against forward", [stepped], [expected_BND[:, 61:]], 1e-4)


def _stepping(model: Hierarchy, cache: Cache, x_BD: Tensor) -> Any:
    def steps() -> None:
        with torch.inference_mode():
            for _ in range(STEPS):
                step(model, x_BD, cache)

    return steps


def run(options: argparse.Namespace) -> Result:
    """Measures both at every length and batch size."""
    device: torch.device = options.device
    quick = options.quick
    models = configs(quick)
    lengths = (64,) if quick else options.lengths
    batches = (1, 2) if quick else options.batches
    checks = {f"{name}, steps against forward": check(config, device, name) for name, config in models.items()}
    rows = [_row(models, length, batch, options) for length in lengths for batch in batches]
    return Result(
        name=NAME,
        command=options.command,
        quick=quick,
        settings={"steps_a_round": STEPS, "levels": [level.model_dump() for level in models["hierarchy"].levels]},
        checks=checks,
        rows=rows,
        bars=[] if quick else _bars(rows),
        **environment(device),
    )


def _row(models: Mapping[str, HierarchyConfig], length: int, batch: int, options: argparse.Namespace) -> Row:
    device: torch.device = options.device
    calls, caches, filled = {}, {}, {}
    for name, config in models.items():
        model = model_of(config, device)
        tokens = prompts(batch, length, config.levels[0].dim, device)
        started = time.perf_counter()
        _, caches[name] = prefill(model, tokens)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        filled[name] = time.perf_counter() - started
        calls[name] = _stepping(model, caches[name], tokens.x[:batch])
    raced = race(calls, device, budget=0.1 if options.quick else options.budget, rounds=(3, 12))
    contenders = {}
    for name in CONTENDERS:
        median, quartiles = raced.median(name), raced.quartiles(name)
        assert median is not None and quartiles is not None
        contenders[name] = Measured(
            seconds=median / STEPS,
            quartiles=(quartiles[0] / STEPS, quartiles[1] / STEPS),
            bytes=caches[name].nbytes,
            scores={"tokens_per_second": batch * STEPS / median, "prefill_seconds": filled[name]},
        )
    faster = raced.ratio("flat", "hierarchy")
    assert faster is not None
    ratios = {
        "flat/hierarchy seconds": faster,
        "hierarchy/flat bytes": caches["hierarchy"].nbytes / caches["flat"].nbytes,
        "flat/hierarchy prefill": filled["flat"] / filled["hierarchy"],
    }
    row = Row(sizes={"prompt": length, "batch": batch}, contenders=contenders, ratios=ratios)
    print(f"{row.sizes}: " + ", ".join(f"{key} {value:.3g}" for key, value in ratios.items()), file=sys.stderr)
    return row


def _bars(rows: list[Row]) -> list[Bar]:
    goals = []
    for row in rows:
        goal = {LONG: FASTER, SHORT: 1.0}.get(int(row.sizes["prompt"]))
        if goal is not None:
            ratio = row.ratios["flat/hierarchy seconds"]
            claim = f"faster than flat after {row.sizes['prompt']} tokens, batch {row.sizes['batch']}"
            goals.append(Bar(claim=claim, goal=f"{goal:g}x", measured=times(ratio), met=ratio >= goal))
    return goals


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["prompt", "batch", "hierarchy, tokens/s", "flat, tokens/s", "flat / hierarchy"]
    head += ["hierarchy, cache MiB", "flat, cache MiB", "hierarchy, prefill s", "flat, prefill s"]
    body = []
    for row in result.rows:
        hierarchy, flat = (row.contenders[name] for name in CONTENDERS)
        body.append(
            [
                str(row.sizes["prompt"]),
                str(row.sizes["batch"]),
                *(f"{one.scores['tokens_per_second']:,.0f}" for one in (hierarchy, flat)),
                times(row.ratios["flat/hierarchy seconds"]),
                *(f"{(one.bytes or 0) / 2**20:,.1f}" for one in (hierarchy, flat)),
                *(f"{one.scores['prefill_seconds']:,.2f}" for one in (hierarchy, flat)),
            ]
        )
    return markdown(head, body)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--lengths", type=numbers, default=(1024, 4096, 16384), help="of prompts: 1024,4096,16384")
    options.add_argument("--batches", type=numbers, default=(1, 8), help="samples a step: 1,8")
    options.add_argument("--budget", type=float, default=15.0, help="seconds of timing a row; 3 rounds at the least")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
