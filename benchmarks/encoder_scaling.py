"""Time and memory over sequence length: the hierarchy against a flat transformer of equal parameters and depth.

The hierarchy has two windowed levels and a global one. The flat control is made of the same blocks and attends
globally; both run on the best attention of the device. PyTorch's own TransformerEncoder, of the control's width,
depth and parameters, is there as a peer. Before anything is timed, hierarchy and control must equal themselves on the
reference attention in float64.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hrt_mm import Hierarchy, Spans, Tokens
from hrt_mm.analysis.control import flat_control, num_parameters
from hrt_mm.core.attention import Call, choose

from . import models
from .checks import bound_of, must_equal
from .command import main, numbers, parser, positive
from .contest import contest
from .markdown import markdown, mebibytes, milliseconds, times
from .memory import Prepared, Sizes
from .results import Bar, Result, Row, environment
from .steps import DTYPES, MODES, prepared
from .timing import exponent

NAME = "encoder_scaling"
CONTENDERS = ("hierarchy", "flat", "torch.nn.TransformerEncoder")
PROTOTYPE = {1024: 3.6, 4096: 7.7, 16384: 22.9}
"""How much faster than flat a prototype was on 2 cores, by tokens."""
MEMORY_SHARE = 0.35
"""Most of the flat control's memory that the hierarchy may take at 16k tokens."""


def prepare(contender: str, sizes: Sizes, settings: Mapping[str, Any]) -> Prepared:
    """A contender at a size, on random input."""
    batch, tokens, device = int(sizes["batch"]), int(sizes["tokens"]), settings["device"]
    mode, dtype = str(sizes["mode"]), str(sizes["dtype"])
    if contender == "torch.nn.TransformerEncoder":
        peer = models.TorchEncoder(flat_control(models.hierarchy_config(settings))).to(device)
        width = peer.layers.layers[0].linear1.in_features
        x_BLD = _input(batch * tokens, int(width), device).unflatten(0, (batch, tokens))
        return prepared(lambda: peer(x_BLD), peer, x_BLD.nbytes, mode, dtype)
    model = models.hierarchy(settings) if contender == "hierarchy" else models.flat(settings)
    x_TD = _input(batch * tokens, model.config.levels[0].dim, device)
    samples = x_TD.split(tokens)
    return prepared(lambda: model(Tokens.pack(samples))[-1].x, model, x_TD.nbytes, mode, dtype)


def _input(rows: int, width: int, device: str) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1)).to(device)


def check(settings: Mapping[str, Any], dtype: str) -> dict[str, float]:
    """Relative differences of both models from the reference attention in float64, on ragged samples.

    Raises:
        CheckFailed: one is too large.
    """
    errors = {}
    for name, make in (("hierarchy", models.hierarchy), ("flat", models.flat)):
        model, truth = make(settings), make(settings, backend="reference").double()
        width = model.config.levels[0].dim
        samples = _input(1 + 77 + 300, width, settings["device"]).split([1, 77, 300])
        with torch.no_grad():
            with torch.autocast(settings["device"], torch.bfloat16, enabled=dtype != "float32"):
                got = _levels(model, list(samples))
            expected = _levels(truth, [sample.double() for sample in samples])
        title = f"{name}, {dtype}, against the reference attention in float64"
        errors[title] = must_equal(title, got, expected, bound_of(DTYPES[dtype]))
    return errors


def _levels(model: Hierarchy, samples: list[Tensor]) -> list[Tensor]:
    pyramid = model(Tokens.pack(samples))
    return [pyramid[name].x for name in pyramid.names]


def run(options: argparse.Namespace) -> Result:
    """Measures all sizes, modes and precisions."""
    quick, device = options.quick, options.device
    chosen = models.TINY if quick else models.DEFAULT
    overrides = {key: list(value) for key in ("widths", "depths") if (value := getattr(options, key))}
    settings: dict[str, Any] = {
        **chosen,
        **overrides,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "memory": options.memory,
        "budget_seconds": 0.1 if quick else options.budget,
    }
    dtypes = options.dtypes or (["bfloat16"] if device.type == "cuda" else ["float32"])
    batch = options.batch or (4 if device.type == "cuda" and not quick else 1)
    tokens = options.tokens or ((128, 256) if quick else _default_tokens(device))
    checks = {title: value for dtype in dtypes for title, value in check(settings, dtype).items()}
    rows = [
        _row({"mode": mode, "dtype": dtype, "batch": batch, "tokens": size}, settings, options.peers)
        for mode in MODES
        for dtype in dtypes
        for size in tokens
    ]
    settings |= _described(settings, device, dtypes)
    return Result(
        name=NAME,
        command=options.command,
        quick=quick,
        settings=settings,
        checks=checks,
        rows=rows,
        bars=[] if quick else bars(rows, device),
        details={"exponents": exponents(rows)},
        **environment(device),
    )


def _default_tokens(device: torch.device) -> tuple[int, ...]:
    top = 16 if device.type == "cuda" else 14
    return tuple(2**power for power in range(10, top + 1))


def _described(settings: Mapping[str, Any], device: torch.device, dtypes: list[str]) -> dict[str, Any]:
    """What the models are, and the attention that serves the flat control."""
    config = models.hierarchy_config(settings)
    control = flat_control(config)
    level = control.levels[0]
    spans = Spans.from_lengths([2, 2], device)
    attention = {}
    for dtype in dtypes:
        q_THD = torch.zeros(4, level.heads, level.head_dim, dtype=DTYPES[dtype], device=device)
        attention[dtype] = choose(Call(q_THD, q_THD, q_THD, spans, spans, (-1, -1), 1.0)).name
    return {
        "parameters": {"hierarchy": num_parameters(config), "flat": num_parameters(control)},
        "flat": {"width": level.dim, "heads": level.heads, "depth": level.depth, "mlp": level.mlp_dim},
        "attention": attention,
    }


def _row(sizes: Sizes, settings: Mapping[str, Any], peers: bool) -> Row:
    names = CONTENDERS if peers else CONTENDERS[:2]
    warm = sizes | {"tokens": min(256, int(sizes["tokens"]))}
    contenders, raced = contest(NAME, prepare, names, sizes, warm, settings)
    ratios = {f"{name}/hierarchy seconds": raced.ratio(name, "hierarchy") for name in names[1:]}
    hierarchy = contenders["hierarchy"]
    for name in names[1:]:
        other = contenders[name]
        if hierarchy.bytes and hierarchy.held_bytes and other.bytes and other.held_bytes:
            ratios[f"hierarchy/{name} bytes"] = hierarchy.bytes / other.bytes
            memory_ratio = (hierarchy.bytes + hierarchy.held_bytes) / (other.bytes + other.held_bytes)
            ratios[f"hierarchy/{name} bytes with weights"] = memory_ratio
    row = Row(sizes=sizes, contenders=contenders, ratios={k: v for k, v in ratios.items() if v is not None})
    print(f"{sizes}: " + ", ".join(f"{key} {value:.3g}" for key, value in row.ratios.items()), file=sys.stderr)
    return row


def exponents(rows: list[Row]) -> list[dict[str, Any]]:
    """By mode and precision, the power of the length that each contender's time grows with.

    ``all`` is fitted over all lengths, ``last`` over the three longest.
    """
    results = []
    for mode, dtype in dict.fromkeys((row.sizes["mode"], row.sizes["dtype"]) for row in rows):
        selected = [row for row in rows if (row.sizes["mode"], row.sizes["dtype"]) == (mode, dtype)]
        for name in selected[0].contenders:
            points = [
                (float(row.sizes["tokens"]), seconds)
                for row in selected
                if (seconds := row.contenders[name].seconds) is not None
            ]
            if len(points) > 1:
                fits = {"all": exponent(*zip(*points, strict=True)), "last": exponent(*zip(*points[-3:], strict=True))}
                results.append({"mode": mode, "dtype": dtype, "contender": name, **fits})
    return results


def bars(rows: list[Row], device: torch.device) -> list[Bar]:
    """The prototype's speed, on the CPU in float32 as it ran, and the memory at 16k tokens."""
    goals = []
    for row in rows:
        tokens, mode, dtype = (row.sizes[key] for key in ("tokens", "mode", "dtype"))
        where = f"{mode}, {dtype}, {tokens} tokens"
        speed, share = row.ratios.get("flat/hierarchy seconds"), row.ratios.get("hierarchy/flat bytes")
        target = PROTOTYPE.get(int(tokens)) if device.type == "cpu" and dtype == "float32" else None
        if target and speed:
            goals.append(
                Bar(claim=f"faster than flat: {where}", goal=f"{target}x", measured=times(speed), met=speed >= target)
            )
        if tokens == 16384 and share:
            bar = Bar(
                claim=f"memory over flat's: {where}",
                goal=f"{MEMORY_SHARE:.0%} or less",
                measured=f"{share:.1%}",
                met=share <= MEMORY_SHARE,
            )
            goals.append(bar)
    return goals


def tables(result: Result) -> str:
    """The result as Markdown."""
    flat_shape, parameters = result.settings["flat"], result.settings["parameters"]
    parts = [
        f"Hierarchy: widths {result.settings['widths']}, depths {result.settings['depths']}, windows of "
        f"{result.settings['window']}, stride {result.settings['stride']}, {parameters['hierarchy'] / 1e6:.1f} M "
        f"parameters. Flat: width {flat_shape['width']}, depth {flat_shape['depth']}, "
        f"{parameters['flat'] / 1e6:.1f} M parameters. Attention backend: "
        + ", ".join(f"{name} ({dtype})" for dtype, name in result.settings["attention"].items())
        + "."
    ]
    for mode, dtype in dict.fromkeys((row.sizes["mode"], row.sizes["dtype"]) for row in result.rows):
        rows = [row for row in result.rows if (row.sizes["mode"], row.sizes["dtype"]) == (mode, dtype)]
        names = list(rows[0].contenders)
        title = "Inference" if mode == "inference" else "Training step"
        parts.append(f"{title}, {dtype}, {rows[0].sizes['batch']} sequence(s): milliseconds, and peak MiB")
        head = [
            "tokens",
            *names,
            "flat / hierarchy",
            *(f"{name}, MiB" for name in names),
            "hierarchy / flat",
            "with weights",
        ]
        parts.append(markdown(head, [_cells(row, names) for row in rows]))
    head = ["mode", "precision", "contender", "exponent, all lengths", "exponent, three longest"]
    fits = result.details["exponents"]
    body = [[f["mode"], f["dtype"], f["contender"], f"{f['all']:.2f}", f"{f['last']:.2f}"] for f in fits]
    parts.append("Time grows with the length to the power of:")
    parts.append(markdown(head, body))
    return "\n\n".join(parts)


def _cells(row: Row, names: list[str]) -> list[str]:
    keys = ("flat/hierarchy seconds", "hierarchy/flat bytes", "hierarchy/flat bytes with weights")
    speed, share, whole = (row.ratios.get(key) for key in keys)
    return [
        str(row.sizes["tokens"]),
        *(milliseconds(row.contenders[name]) for name in names),
        times(speed),
        *(mebibytes(row.contenders[name].bytes) for name in names),
        "" if share is None else f"{share:.0%}",
        "" if whole is None else f"{whole:.0%}",
    ]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--tokens", type=numbers, help="lengths, as 1024,4096; 1k to 16k (64k on a GPU) when absent")
    options.add_argument("--batch", type=positive, help="sequences a call; 1, or 4 on a GPU, when absent")
    options.add_argument(
        "--dtypes", nargs="+", choices=tuple(DTYPES), help="float32, or bfloat16 on a GPU, when absent"
    )
    options.add_argument("--widths", type=numbers, help="of the levels, as 128,256,512")
    options.add_argument("--depths", type=numbers, help="of the levels, as 2,2,4")
    options.add_argument("--budget", type=float, default=20.0, help="seconds of timing a row; 3 rounds at the least")
    options.add_argument("--no-peers", dest="peers", action="store_false", help="leave torch.nn.TransformerEncoder out")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
