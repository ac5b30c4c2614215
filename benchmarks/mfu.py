"""Model FLOPs utilization (MFU) of training a hierarchy of about a billion parameters on long packed sequences.

A step is the forward pass, the backward pass and an AdamW update, under bf16 autocast with float32 weights. FLOPs are
those of ``hrt-mm describe``: matrix products and visible attention pairs by formula, with a training step taken as
three forward passes. Recomputed activations do not count (arXiv 2204.02311, appendix B), so MFU is FLOPs a second over
the dense bf16 peak of the device. Devices whose peak is not in ``PEAKS`` get throughput, but no MFU.

``compiled`` is ``train.compile``: each block under ``torch.compile``. Before anything is timed, a shallow model of the
same widths must equal itself on the reference attention in float64. Where a step runs out of memory, it is measured
with activation checkpointing instead.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hrt_mm import Hierarchy, HierarchyConfig, Tokens
from hrt_mm.analysis.control import num_parameters
from hrt_mm.analysis.describe import describe_model
from hrt_mm.analysis.describe.layout import on_meta, sample_of
from hrt_mm.train.regions import compile_regions

from .checks import bound_of, must_equal
from .command import main, numbers, parser
from .markdown import markdown, mebibytes, times
from .models import hierarchy_config
from .results import Bar, Measured, Result, Row, environment, write
from .steps import DTYPES, prepared
from .timing import race

NAME = "mfu"
CONTENDERS = ("eager", "compiled")
BILLION: dict[str, Any] = {
    "widths": [1024, 1536, 2048],
    "depths": [4, 4, 16],
    "head_dim": 128,
    "window": 256,
    "stride": 4,
}
TINY: dict[str, Any] = {"widths": [32, 32, 64], "depths": [1, 1, 1], "head_dim": 16, "window": 16, "stride": 4}
LENGTHS = (65536, 32768, 16384, 16384)
"""Tokens of each sequence of a batch."""
GOAL = 0.5
PEAKS: dict[str, float] = {
    "A100": 312e12,
    "A30": 165e12,
    "L4": 121e12,
    "L40S": 362e12,
    "H100": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "MI300X": 1307e12,
}
"""Dense bf16 FLOPs a second by the words in a device's name, from the vendors' data sheets (without sparsity)."""


def peak_flops(name: str) -> float | None:
    """Dense bf16 FLOPs a second of a device; ``None`` where its name is not in ``PEAKS``.

    Args:
        name: as ``torch.cuda.get_device_name`` gives it, such as ``NVIDIA H100 80GB HBM3``. A slice of a GPU (MIG) has
            a part of the peak, so there is no figure for it.
    """
    words = re.findall(r"\w+", name)
    matches = [key for key in PEAKS if set(key.split()) <= set(words)]
    return None if "MIG" in words or not matches else PEAKS[max(matches, key=len)]


def step_flops(config: HierarchyConfig, lengths: Sequence[int]) -> int:
    """FLOPs of a training step on packed sequences, without recomputation: three times those of the forward pass."""
    meta = on_meta(config, 1)
    forward = {
        length: describe_model(config, sample_of((length,), meta)).total.forward_flops for length in set(lengths)
    }
    return 3 * sum(forward[length] for length in lengths)


def utilization(flops: float, seconds: float, peak: float | None) -> float | None:
    """MFU of a step; ``None`` where the peak is unknown."""
    return None if peak is None else flops / seconds / peak


def model_of(config: HierarchyConfig, device: torch.device) -> Hierarchy:
    """The hierarchy with random weights, made on the device."""
    torch.manual_seed(0)
    with torch.device(device):
        model = Hierarchy(config)
    # Branches that start at zero would multiply zeros, which takes a GPU less power and so less time.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model


def samples_of(lengths: Sequence[int], width: int, device: torch.device) -> list[Tensor]:
    """Random sequences, (L, D) each."""
    generator = torch.Generator(device).manual_seed(1)
    return [torch.randn(length, width, generator=generator, device=device) for length in lengths]


def check(settings: Mapping[str, Any], dtype: str, contender: str, device: torch.device) -> float:
    """Relative difference of a model with one block a level from the reference attention in float64.

    Raises:
        CheckFailed: it is too large.
    """
    shallow = {**settings, "depths": [1] * len(settings["depths"])}
    model = model_of(hierarchy_config(shallow), device)
    truth = model_of(hierarchy_config(shallow, backend="reference"), device)
    truth.load_state_dict(model.state_dict())
    if contender == "compiled":
        compile_regions(model)
    samples = samples_of([1, 77, 300], settings["widths"][0], device)
    with torch.no_grad():
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype != "float32"):
            got = model(Tokens.pack(samples))[-1].x
        expected = truth.double()(Tokens.pack([sample.double() for sample in samples]))[-1].x
    return must_equal(f"{contender}, {dtype}", [got], [expected], bound_of(DTYPES[dtype]))


def measure(
    contender: str, settings: Mapping[str, Any], lengths: Sequence[int], dtype: str, device: torch.device, budget: float
) -> Measured:
    """Times training steps, with activation checkpointing if they do not fit without."""
    measured = Measured(seconds=None, note="out of memory")
    for recompute in (False, True):
        measured = _measure(contender, hierarchy_config(settings, activation_checkpointing=recompute), lengths, dtype,
                            device, budget)  # fmt: skip
        measured.scores["activation_checkpointing"] = float(recompute)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if measured.seconds is not None:
            break
    return measured


def _measure(
    contender: str, config: HierarchyConfig, lengths: Sequence[int], dtype: str, device: torch.device, budget: float
) -> Measured:
    model = model_of(config, device)
    if contender == "compiled":
        compile_regions(model)
    samples = samples_of(lengths, config.levels[0].dim, device)
    held_bytes = sum(sample.nbytes for sample in samples)
    step = prepared(lambda: model(Tokens.pack(samples))[-1].x, model, held_bytes, "training", dtype)
    before = 0
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    raced = race({contender: step.call}, device, budget=budget)
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else None
    return Measured(
        seconds=raced.median(contender),
        quartiles=raced.quartiles(contender),
        bytes=peak,
        held_bytes=step.held,
        note=raced.notes.get(contender, ""),
    )


def scored(measured: Measured, flops: float, tokens: int, peak: float | None) -> Measured:
    """With tokens and FLOPs a second, and MFU."""
    if measured.seconds is None:
        return measured
    scores = {
        "tokens_per_second": tokens / measured.seconds,
        "flops_per_second": flops / measured.seconds,
        "mfu": utilization(flops, measured.seconds, peak),
    }
    return measured.model_copy(update={"scores": {**measured.scores, **scores}})


def run(options: argparse.Namespace) -> Result:
    """Measures eager and compiled steps in turn.

    The result so far is written to ``--json`` after each, so that a figure is kept if the next one is stopped.
    """
    device: torch.device = options.device
    settings = TINY if options.quick else BILLION
    lengths = options.lengths or ((200, 100, 77) if options.quick else LENGTHS)
    config = hierarchy_config(settings)
    flops, peak = step_flops(config, lengths), peak_flops(environment(device)["device"])
    sizes = {
        "dtype": options.dtype,
        "sequences": len(lengths),
        "tokens": sum(lengths),
        "parameters": num_parameters(config),
        "step_flops": flops,
    }
    contenders: dict[str, Measured] = {}
    checks: dict[str, float] = {}

    def result() -> Result:
        return Result(
            name=NAME,
            command=options.command,
            quick=options.quick,
            settings={**settings, "lengths": list(lengths), "peak_flops": peak},
            checks=checks,
            rows=[Row(sizes=sizes, contenders=contenders, ratios=_ratios(contenders))],
            bars=[] if options.quick else bars(contenders),
            **environment(device),
        )

    for name in options.contenders:
        try:
            checks[f"{name}, {options.dtype}, against the reference attention in float64"] = check(
                settings, options.dtype, name, device
            )
            measured = measure(name, settings, lengths, options.dtype, device, 0.1 if options.quick else options.budget)
        except torch._dynamo.exc.TorchDynamoException as error:
            measured = Measured(seconds=None, note=f"torch.compile failed: {str(error).splitlines()[0]}")
        contenders[name] = scored(measured, flops, sum(lengths), peak)
        print(f"{name}: {contenders[name].scores} {measured.note}", file=sys.stderr, flush=True)
        if options.json is not None:
            write(result(), options.json)
    return result()


def _ratios(contenders: Mapping[str, Measured]) -> dict[str, float]:
    eager, compiled = (contenders[name].seconds if name in contenders else None for name in CONTENDERS)
    return {"eager/compiled seconds": eager / compiled} if eager and compiled else {}


def bars(contenders: Mapping[str, Measured]) -> list[Bar]:
    """The goal for the best MFU, where there is a figure."""
    values = {name: value for name, one in contenders.items() if (value := one.scores.get("mfu")) is not None}
    if not values:
        return []
    best = max(values, key=values.__getitem__)
    claim = f"MFU of a training step, {best}"
    return [Bar(claim=claim, goal=f"{GOAL:.0%}", measured=f"{values[best]:.1%}", met=values[best] >= GOAL)]


def tables(result: Result) -> str:
    """The result as Markdown."""
    [row] = result.rows
    settings, peak = result.settings, result.settings["peak_flops"]
    against = "unknown, so there is no MFU" if peak is None else f"{peak / 1e12:,.0f} TFLOPS"
    intro = (
        f"Widths {settings['widths']}, depths {settings['depths']}, windows of {settings['window']}, stride "
        f"{settings['stride']}: {int(row.sizes['parameters']) / 1e6:,.1f} M parameters. Sequences of "
        f"{', '.join(f'{length:,}' for length in settings['lengths'])} tokens, packed; {row.sizes['dtype']}, "
        f"{float(row.sizes['step_flops']) / 1e12:,.3g} TFLOP a training step. Dense bf16 peak: {against}."
    )
    head = ["step", "s", "tokens/s", "TFLOPS", "MFU", "peak MiB", "checkpointing", "eager / compiled"]
    body = []
    for name, one in row.contenders.items():
        rate = one.scores.get("flops_per_second")
        body.append(
            [
                name,
                one.note if one.seconds is None else f"{one.seconds:.3f}",
                _cell(one.scores.get("tokens_per_second"), ",.0f"),
                _cell(None if rate is None else rate / 1e12, ",.3g"),
                _cell(one.scores.get("mfu"), ".1%"),
                mebibytes(one.bytes),
                "yes" if one.scores.get("activation_checkpointing") else "no",
                times(row.ratios.get("eager/compiled seconds")) if name == "compiled" else "",
            ]
        )
    return f"{intro}\n\n{markdown(head, body)}"


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument(
        "--lengths", type=numbers, help="tokens of each sequence of a batch: 65536,32768,16384,16384 when absent"
    )
    options.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="both when absent"
    )
    options.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16", help="bfloat16 (autocast) when absent")
    options.add_argument("--budget", type=float, default=15.0, help="seconds of timing each; 3 steps at the least")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
