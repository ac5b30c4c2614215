"""What packing costs and what it gains: the packed hierarchy against a dense version of the same model, by hand.

Uniform batches show the cost: there is no padding to save. Ragged batches, with lengths drawn uniformly from a quarter
of the longest to the longest, show the gain: at best padded tokens over real ones. Both start from the same list of
samples at every call, so packing, padding, masks and plans are all counted. Before anything is timed, outputs of all
levels and gradients of all weights must be equal.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hrt_mm import Hierarchy, Tokens
from hrt_mm.core.errors import UserError

from . import models
from .checks import CheckFailed, bound_of, must_equal
from .command import main, parser, positive
from .contest import contest
from .dense import DenseHierarchy
from .hotspots import compare
from .markdown import markdown, mebibytes, milliseconds, times
from .memory import Prepared, Sizes
from .results import Bar, Result, Row, environment
from .steps import DTYPES, MODES, prepared

NAME = "overhead"
CONTENDERS = ("packed", "dense")
LENGTHS = ("uniform", "ragged")
MAX_COST, MIN_SHARE = 1.10, 0.90
"""Most that the packed path may take of the dense one's time, and the least share of the ideal gain."""


def lengths_of(sizes: Sizes) -> list[int]:
    """Tokens of each sample: all ``tokens``, or from a quarter of it to all of it, one sample being the longest."""
    batch, longest = int(sizes["batch"]), int(sizes["tokens"])
    if sizes["lengths"] == "uniform":
        return [longest] * batch
    drawn = torch.randint(longest // 4, longest + 1, (batch,), generator=torch.Generator().manual_seed(2)).tolist()
    return [longest, *drawn[1:]]


def ideal_gain(sizes: Sizes) -> float:
    """Padded tokens over real ones."""
    lengths = lengths_of(sizes)
    return len(lengths) * max(lengths) / sum(lengths)


def samples_of(sizes: Sizes, width: int, device: str) -> list[Tensor]:
    """Random samples, (L, D) each."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(length, width, generator=generator).to(device) for length in lengths_of(sizes)]


def packed(model: Hierarchy, samples: list[Tensor]) -> list[Tensor]:
    """The tokens of every level, from a list of samples."""
    pyramid = model(Tokens.pack(samples))
    return [pyramid[name].x for name in pyramid.names]


def dense(model: DenseHierarchy, samples: list[Tensor]) -> list[Tensor]:
    """The same, padded."""
    longest = max(len(sample) for sample in samples)
    if all(len(sample) == longest for sample in samples):
        return model(torch.stack(samples))
    lengths_B = torch.tensor([len(sample) for sample in samples], device=samples[0].device)
    real_BL = torch.arange(longest, device=samples[0].device) < lengths_B[:, None]
    levels: list[Tensor] = model(pad_sequence(samples, batch_first=True), real_BL)
    return levels


def _contender(name: str, settings: Mapping[str, Any]) -> Hierarchy | DenseHierarchy:
    model = models.hierarchy(settings)
    return model if name == "packed" else DenseHierarchy(model).to(settings["device"])


def _forward(model: Hierarchy | DenseHierarchy, samples: list[Tensor]) -> list[Tensor]:
    return packed(model, samples) if isinstance(model, Hierarchy) else dense(model, samples)


def prepare(contender: str, sizes: Sizes, settings: Mapping[str, Any]) -> Prepared:
    """A contender at a size, on random samples."""
    model = _contender(contender, settings)
    samples = samples_of(sizes, settings["widths"][0], settings["device"])
    held = sum(sample.nbytes for sample in samples)
    return prepared(lambda: _forward(model, samples)[-1], model, held, str(sizes["mode"]), str(sizes["dtype"]))


def check(sizes: Sizes, settings: Mapping[str, Any]) -> dict[str, float]:
    """Relative differences of outputs and gradients between packed and dense.

    Raises:
        CheckFailed: one is too large.
    """
    samples = samples_of(sizes, settings["widths"][0], settings["device"])
    lengths = lengths_of(sizes)
    outputs, gradients = {}, {}
    for name in CONTENDERS:
        model = _contender(name, settings)
        with torch.autocast(settings["device"], torch.bfloat16, enabled=sizes["dtype"] != "float32"):
            levels = _forward(model, samples)
        outputs[name] = levels if name == "packed" else _real(levels, lengths, settings["stride"])
        torch.stack([level.float().pow(4).mean() for level in outputs[name]]).sum().backward()
        gradients[name] = {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
    title = f"packed against dense, {sizes['lengths']}, {sizes['dtype']}"
    bound = bound_of(DTYPES[str(sizes["dtype"])])
    errors = {f"{title}, outputs": must_equal(title, outputs["packed"], outputs["dense"], bound)}
    if gradients["packed"].keys() != gradients["dense"].keys():
        raise CheckFailed(f"{title}: the two do not train the same weights")
    got, expected = ([gradients[name][key] for key in gradients["dense"]] for name in CONTENDERS)
    errors[f"{title}, gradients"] = must_equal(f"{title}, gradients", got, expected, 10 * bound)
    return errors


def _real(levels: list[Tensor], lengths: list[int], stride: int) -> list[Tensor]:
    """Padded levels without their padding."""
    sampled = []
    for level_BLD in levels:
        if level_BLD.shape[0] * level_BLD.shape[1] == sum(lengths):
            sampled.append(level_BLD.flatten(0, 1))
        else:
            sampled.append(torch.cat([rows[:length] for rows, length in zip(level_BLD, lengths, strict=True)]))
        lengths = [-(-length // stride) for length in lengths]
    return sampled


def run(options: argparse.Namespace) -> Result:
    """Measures uniform and ragged batches, inference and training."""
    quick, device = options.quick, options.device
    settings: dict[str, Any] = {
        **(models.TINY if quick else models.DEFAULT),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "memory": options.memory,
        "profiled_calls": 1 if quick else 5,
        "budget_seconds": 0.1 if quick else options.budget,
    }
    dtypes = options.dtypes or (["bfloat16"] if device.type == "cuda" else ["float32"])
    lengths_of_longest = options.tokens or ([128] if quick else [1024, 4096])
    batch = options.batch or (3 if quick else 64 if device.type == "cuda" else 16)
    multiple = DenseHierarchy(models.hierarchy(settings | {"device": "cpu"})).multiple
    for tokens in lengths_of_longest:
        if tokens % multiple:
            raise UserError(f"--tokens {tokens} is no multiple of {multiple}: the dense version would pad further")
    small = {"batch": min(batch, 4), "tokens": multiple}
    checks: dict[str, float] = {}
    rows, profile = [], []
    for lengths in LENGTHS:
        for dtype in dtypes:
            checks |= check({**small, "lengths": lengths, "dtype": dtype}, settings)
    for tokens, mode, dtype, lengths in product(lengths_of_longest, MODES, dtypes, LENGTHS):
        sizes: Sizes = {"mode": mode, "dtype": dtype, "lengths": lengths, "batch": batch, "tokens": tokens}
        rows.append(_row(sizes, settings))
        profile += _profile(sizes, settings)
    return Result(
        name=NAME,
        command=options.command,
        quick=quick,
        settings=settings,
        checks=checks,
        rows=rows,
        bars=[] if quick else bars(rows),
        details={"profile": profile},
        **environment(device),
    )


def _calls(sizes: Sizes, settings: Mapping[str, Any]) -> dict[str, Callable[[], object]]:
    return {name: prepare(name, sizes, settings).call for name in CONTENDERS}


def _row(sizes: Sizes, settings: Mapping[str, Any]) -> Row:
    warm = sizes | {"batch": 2, "tokens": min(256, int(sizes["tokens"]))}
    contenders, raced = contest(NAME, prepare, CONTENDERS, sizes, warm, settings)
    cost, gain, ideal = raced.ratio("packed", "dense"), raced.ratio("dense", "packed"), ideal_gain(sizes)
    ratios = {"packed/dense seconds": cost, "dense/packed seconds": gain, "ideal gain": ideal}
    if gain is not None:
        ratios["share of the ideal gain"] = gain / ideal
    packed, other = (contenders[name].bytes for name in CONTENDERS)
    if packed and other:
        ratios["packed/dense bytes"] = packed / other
    row = Row(sizes=sizes, contenders=contenders, ratios={k: v for k, v in ratios.items() if v is not None})
    print(f"{sizes}: " + ", ".join(f"{key} {value:.3g}" for key, value in row.ratios.items()), file=sys.stderr)
    return row


def _profile(sizes: Sizes, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where packed and dense spend their time."""
    device, repeats = torch.device(settings["device"]), settings["profiled_calls"]
    profile = compare(_calls(sizes, settings), device, repeats=repeats, gain=ideal_gain(sizes))
    kind = {key: sizes[key] for key in ("mode", "dtype", "lengths", "tokens")}
    return [{**kind, **line} for line in profile]


def bars(rows: list[Row]) -> list[Bar]:
    """At most 10% over the dense version on uniform batches; at least 90% of the ideal gain on ragged ones."""
    goals = []
    for row in rows:
        where = f"{row.sizes['mode']}, {row.sizes['dtype']}, {row.sizes['tokens']} tokens"
        cost, share = row.ratios.get("packed/dense seconds"), row.ratios.get("share of the ideal gain")
        if cost is None or share is None:
            continue
        if row.sizes["lengths"] == "uniform":
            bar = Bar(
                claim=f"packed over dense, uniform: {where}",
                goal=f"{MAX_COST:.2f}x or less",
                measured=times(cost),
                met=cost <= MAX_COST,
            )
        else:
            bar = Bar(
                claim=f"share of the ideal gain, ragged: {where}",
                goal=f"{MIN_SHARE:.0%} or more",
                measured=f"{share:.0%}",
                met=share >= MIN_SHARE,
            )
        goals.append(bar)
    return goals


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["batch", "packed", "dense", "dense / packed", "ideal", "share of ideal", "packed, MiB", "dense, MiB"]
    parts = [
        f"{result.rows[0].sizes['batch']} samples of up to as many tokens as named; widths "
        f"{result.settings['widths']}, depths {result.settings['depths']}. Milliseconds, and peak MiB:",
        markdown(head, [_cells(row) for row in result.rows]),
        "Where the time goes: milliseconds a call by operator, under the profiler, which slows both. Over ideal: what "
        "packed takes beyond dense over the ideal gain.",
    ]
    head = ["batch", "operator", "packed", "dense", "over ideal"]
    body = [
        [
            _name(line),
            f"`{line['operator']}`",
            *(f"{line[key]:.2f}" for key in ("packed", "dense")),
            f"{line['over_ideal']:+.2f}",
        ]
        for line in result.details["profile"]
    ]
    return "\n\n".join([*parts, markdown(head, body)])


def _name(sizes: Mapping[str, Any]) -> str:
    return f"{sizes['tokens']} tokens, {sizes['lengths']}, {sizes['mode']}, {sizes['dtype']}"


def _cells(row: Row) -> list[str]:
    packed, other = row.contenders["packed"], row.contenders["dense"]
    share = row.ratios.get("share of the ideal gain")
    return [
        _name(row.sizes),
        milliseconds(packed),
        milliseconds(other),
        times(row.ratios.get("dense/packed seconds")),
        times(row.ratios["ideal gain"]),
        "" if share is None else f"{share:.0%}",
        mebibytes(packed.bytes),
        mebibytes(other.bytes),
    ]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--tokens", nargs="+", type=positive, help="of the longest sample; 1024 and 4096 when absent")
    options.add_argument("--batch", type=positive, help="samples; 16, or 64 on a GPU, when absent")
    options.add_argument(
        "--dtypes", nargs="+", choices=tuple(DTYPES), help="float32, or bfloat16 on a GPU, when absent"
    )
    options.add_argument("--budget", type=float, default=20.0, help="seconds of timing a row; 3 rounds at the least")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
