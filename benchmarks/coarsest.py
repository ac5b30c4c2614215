"""What a long sample costs at the coarsest level, which alone attends to everything.

The model is the hierarchy of ``encoder_scaling``. Time is processor time of one forward and backward pass. Memory is
what autograd keeps for the backward pass, without the weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hrt_mm import Hierarchy, Tokens

from . import models
from .command import main, numbers, parser
from .markdown import markdown
from .results import Measured, Result, Row, environment

NAME = "coarsest"


def run(options: argparse.Namespace) -> Result:
    """Measures all lengths."""
    settings: dict[str, Any] = dict(models.TINY if options.quick else models.DEFAULT) | {"device": options.device.type}
    model = models.hierarchy(settings)
    lengths = options.tokens or ((64, 128) if options.quick else (4096, 16384, 65536))
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings=settings,
        checks={},
        rows=[_row(model, length, options.device) for length in lengths],
        **environment(options.device),
    )


def _row(model: Hierarchy, length: int, device: torch.device) -> Row:
    x_TD = torch.randn(length, model.config.levels[0].dim, generator=torch.Generator().manual_seed(1)).to(device)
    inputs: list[Any] = []
    stage = model.stages[-1]
    with torch.no_grad():
        hook = stage.register_forward_pre_hook(lambda _, args: inputs.extend(args))
        model(Tokens.pack([x_TD]))
        hook.remove()
    coarse_GE, plan = inputs[:2]
    whole = _measured(model, lambda: model(Tokens.pack([x_TD]))[-1].x, device)
    coarsest = _measured(model, lambda: stage(coarse_GE.detach().requires_grad_(), plan), device)
    assert whole.seconds and whole.bytes and coarsest.seconds and coarsest.bytes
    ratios = {"seconds": coarsest.seconds / whole.seconds, "bytes": coarsest.bytes / whole.bytes}
    print(f"{length} tokens: {whole}, of which at the coarsest level {ratios}", file=sys.stderr)
    return Row(
        sizes={"tokens": length, "coarsest": len(coarse_GE)},
        contenders={"whole": whole, "coarsest": coarsest},
        ratios=ratios,
    )


def _measured(model: Hierarchy, forward: Callable[[], Tensor], device: torch.device) -> Measured:
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        forward().sum().backward()
    start = _now(device)
    forward().sum().backward()
    return Measured(seconds=_now(device) - start, bytes=sum(kept.values()))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["tokens", "at the coarsest level", "step, s", "of it there", "kept for backward, GiB", "of it there"]
    rows = []
    for row in result.rows:
        whole = row.contenders["whole"]
        rows.append(
            [
                f"{row.sizes['tokens']:,}",
                f"{row.sizes['coarsest']:,}",
                f"{whole.seconds:.2f}",
                f"{row.ratios['seconds']:.0%}",
                f"{(whole.bytes or 0) / 2**30:.2f}",
                f"{row.ratios['bytes']:.0%}",
            ]
        )
    return markdown(head, rows)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--tokens", type=numbers, help="lengths, such as 4096,16384")
    return options


if __name__ == "__main__":
    sys.exit(main(arguments(), run, tables))
