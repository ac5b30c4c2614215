"""Language models at equal time: bits per byte on held-out text against seconds of training.

All contenders train on the sources of Python's standard library, byte by byte, on the same windows in the same order,
with equal parameters, AdamW, one thread and float32, each in a process of its own; on a GPU in bf16 autocast and one
after the other. Each gets the learning rate that was best for it in a short run; the schedule follows the time that is
gone. Evaluation does not count. Before it is trained, a contender must not change a prediction when a later byte
changes.

The peers are x-transformers, hourglass-transformer-pytorch and MEGABYTE-pytorch (the extra ``peers``).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hrt_mm.analysis.control import flat_control
from hrt_mm.core.errors import UserError
from hrt_mm.core.levels import FixedGroups, HierarchyConfig, Level
from hrt_mm.tasks import LanguageConfig, LanguageModel
from hrt_mm.train.sampler import Position, Sampler
from hrt_mm.train.seeding import forked, mix, seed_host
from hrt_modalities.text import ByteTokenizer
from hrt_modalities.text.corpus import Corpus, CorpusConfig

from .checks import CheckFailed
from .command import main, parser, positive
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment

NAME = "lm"
RATES = (1e-3, 2e-3, 4e-3)
PEERS = {
    "x-transformers": "x-transformers",
    "hourglass": "hourglass-transformer-pytorch",
    "megabyte": "MEGABYTE-pytorch",
}
CONTENDERS = ("hierarchy", "flat", "window", *PEERS)
TOLERANCE = 0.05
"""How far the contenders' parameters may differ from the hierarchy's."""
VOCABULARY = 257
MARKS = (30.0, 60.0, 120.0, 180.0, 240.0)
"""Seconds at which the table looks at the curves."""

Costs = Callable[[Tensor], Tensor]
"""(B, N) ids to (B, N - 1) nats of every token but the first."""


def hierarchy_config(context: int) -> HierarchyConfig:
    """Two levels: bytes within a short window, and eight times fewer phrases that see everything."""
    width = 192 if context > 256 else 32
    fine = Level(
        name="bytes",
        dim=width,
        depth=1,
        heads=width // 32 // 2 or 1,
        window=16,
        window_type="sliding",
        group=FixedGroups(stride=8),
    )
    coarse = Level(name="phrases", dim=width * 5 // 3 // 32 * 32, depth=4, heads=width * 5 // 3 // 32 // 2 or 1)
    return HierarchyConfig(levels=(fine, coarse), causal=True, top_down=True)


def window_control(config: HierarchyConfig) -> HierarchyConfig:
    """The flat control with no more than the fine level's window."""
    flat, fine = flat_control(config), config.levels[0]
    level = flat.levels[0].model_copy(update={"window": fine.window, "window_type": "sliding"})
    return flat.model_copy(update={"levels": (level,)})


class Own(nn.Module):
    """A hierarchy, or a control, as a contender."""

    def __init__(self, config: HierarchyConfig) -> None:
        super().__init__()
        self.tokenizer = ByteTokenizer()
        task = LanguageConfig(type="language").build(config, self.tokenizer, None)
        assert isinstance(task, LanguageModel)
        self.task = task

    def forward(self, ids_BN: Tensor) -> Tensor:
        """Nats of every token but the first."""
        from hrt_mm import Tokens
        from hrt_mm.core.spans import Spans

        spans = Spans.from_lengths([ids_BN.shape[1]] * len(ids_BN), ids_BN.device)
        tokens = Tokens(ids_BN.flatten(), spans, spans.positions[:, None].float())
        logits_BNV = self.task.logits(self.task.encoder(tokens)[0].x).unflatten(0, ids_BN.shape)
        return costs(logits_BNV, ids_BN)


class Peer(nn.Module):
    """Another project's language model: ids to the logits of the next one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BN: Tensor) -> Tensor:
        """Nats of every token but the first."""
        return costs(self.model(ids_BN), ids_BN)


def costs(logits_BNV: Tensor, ids_BN: Tensor) -> Tensor:
    """Nats of every token but the first, from the logits at the token before it."""
    return F.cross_entropy(logits_BNV[:, :-1].transpose(1, 2).float(), ids_BN[:, 1:], reduction="none")


def build(name: str, context: int) -> nn.Module:
    """A contender, with as many parameters as the hierarchy.

    Raises:
        CheckFailed: it has more or fewer.
    """
    config = hierarchy_config(context)
    builders = {
        "hierarchy": lambda: config,
        "flat": lambda: flat_control(config),
        "window": lambda: window_control(config),
    }
    target = sum(parameter.numel() for parameter in Own(config).parameters())
    if name in builders:
        model: nn.Module = Own(builders[name]())
    else:
        model = _fitted(partial(_peer, name, context), target)
    size = sum(parameter.numel() for parameter in model.parameters())
    if target > 1e6 and abs(size / target - 1) > TOLERANCE:
        raise CheckFailed(f"{name} has {size:,} parameters, the hierarchy {target:,}: more than {TOLERANCE:.0%} apart")
    return model


def _fitted(make: Callable[[int], nn.Module], target: int) -> nn.Module:
    """The peer of the width whose parameters come nearest."""
    sizes = {}
    for width in range(16, 513, 16):
        with torch.device("meta"):
            sizes[width] = sum(parameter.numel() for parameter in make(width).parameters())
    width = min(sizes, key=lambda width: abs(sizes[width] - target))
    return make(width)


def _peer(name: str, context: int, width: int) -> nn.Module:
    heads = max(1, width // 64)
    if name == "x-transformers":
        from x_transformers import Decoder, TransformerWrapper

        layers = Decoder(
            dim=width,
            depth=6,
            heads=heads,
            attn_flash=True,
            rotary_pos_emb=True,
            use_rmsnorm=True,
            ff_swish=True,
            ff_glu=True,
        )
        return Peer(
            TransformerWrapper(num_tokens=VOCABULARY, max_seq_len=context, attn_layers=layers, use_abs_pos_emb=False)
        )
    if name == "hourglass":
        from hourglass_transformer_pytorch import HourglassTransformerLM

        return Peer(
            HourglassTransformerLM(
                num_tokens=VOCABULARY,
                dim=width,
                max_seq_len=context,
                depth=(1, 4, 1),
                shorten_factor=8,
                heads=heads,
                attn_resampling=True,
                updown_sample_type="linear",
            )
        )
    from MEGABYTE_pytorch import MEGABYTE

    return Peer(
        MEGABYTE(
            num_tokens=VOCABULARY,
            dim=(width * 3 // 2, width),
            depth=(4, 2),
            max_seq_len=(context // 8, 8),
            heads=heads,
            flash_attn=True,
        )
    )


def _autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def causal_error(model: nn.Module, context: int, device: torch.device) -> float:
    """The most that a token's cost changes, of those before a byte that changed.

    Raises:
        CheckFailed: it does.
    """
    ids_BN = torch.randint(256, (1, context), generator=torch.Generator().manual_seed(0))
    position = context // 2 + 3
    other_BN = ids_BN.clone()
    other_BN[0, position] = (other_BN[0, position] + 1) % 256
    with torch.no_grad(), _autocast(device):
        before, after = (model(x.to(device))[0] for x in (ids_BN, other_BN))
    # The cost at place - 1 is that of the byte itself.
    error = float((before - after)[: position - 1].abs().max())
    if error > 1e-4:
        raise CheckFailed(f"a later byte changes a prediction by {error:.3g}")
    return error


def windows(corpus: Corpus, batch: int, seed: int) -> Iterator[Tensor]:
    """(B, N) ids without end, the same for every contender."""
    tokenizer = ByteTokenizer()
    for plan in Sampler(len(corpus), seed=seed, batch_size=batch).plans(Position()):
        values = []
        with forked(host_only=True):
            for index in plan.indices:
                seed_host(mix(seed, "sample", plan.at.epoch, index))
                values.append(corpus[index].value)
        yield torch.stack(tokenizer(values).split())


def held_out(context: int, count: int) -> Tensor:
    """(count, N) ids of the validation split, evenly spread."""
    corpus = CorpusConfig(type="corpus", context=context).build("val")
    indices = torch.linspace(0, len(corpus) - 2, count).long().tolist()
    return torch.stack(ByteTokenizer()([corpus[index].value for index in indices]).split())


def bits_per_byte(model: nn.Module, ids_BN: Tensor, device: torch.device) -> float:
    """On held-out windows, separators' cost included."""
    model.eval()
    with torch.no_grad(), _autocast(device):
        nats = sum(float(model(part.to(device)).double().sum()) for part in ids_BN.split(4))
    model.train()
    return nats / math.log(2) / int((ids_BN[:, 1:] < 256).sum())


def trained(
    model: nn.Module,
    seconds: float,
    rate: float,
    context: int,
    batch: int,
    every: float,
    count: int,
    device: torch.device,
) -> Any:
    """Trains for a time, and returns the curve: [seconds, steps, bits per byte]."""
    corpus = CorpusConfig(type="corpus", context=context).build("train")
    evaluation = held_out(context, count)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    curve: list[list[float]] = []
    spent, due = 0.0, every
    for steps, ids_BN in enumerate(windows(corpus, batch, seed=0), 1):
        started = time.perf_counter()
        share = min(1.0, spent / seconds)
        factor = min(1.0, steps / 20) * (0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        with _autocast(device):
            loss = model(ids_BN.to(device)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent += time.perf_counter() - started
        if spent >= due or spent >= seconds:
            curve.append([round(spent, 2), steps, bits_per_byte(model, evaluation, device)])
            print(f"{spent:.0f} s, step {steps}: {curve[-1][2]:.3f} bits per byte", file=sys.stderr, flush=True)
            due += every
        if spent >= seconds:
            return curve


def train_one(options: argparse.Namespace) -> None:
    """What a process of its own does: one contender at one rate; prints its curve as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    context, quick = (128, True) if options.quick else (options.context, False)
    device = torch.device(options.device)
    model = build(options.contender, context).to(device)
    error = causal_error(model, context, device)
    seconds = options.seconds
    every = seconds / 2 if quick else min(30.0, seconds)
    curve = trained(model, seconds, options.rate, context, options.batch, every, 2 if quick else 32, device)
    size = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"curve": curve, "parameters": size, "causal_error": error}))


def _process(name: str, rate: float, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.lm", "--contender", name, "--rate", str(rate), "--seconds", str(seconds)]
    words += ["--batch", str(options.batch), "--context", str(options.context), "--device", options.device.type]
    words += ["--quick"] if options.quick else []
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=errors, text=True, check=False)
        errors.seek(0)
        output = errors.read().strip().splitlines()
    if done.returncode:
        raise CheckFailed(f"{name} at {rate:g} failed: {' '.join(output[-2:])}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name} at {rate:g}: {result['curve'][-1][2]:.3f} after {result['curve'][-1][0]:.0f} s", file=sys.stderr)
    return result


def installed() -> list[str]:
    """The contenders that can run here.

    Raises:
        UserError: a peer is not installed.
    """
    for package in PEERS.values():
        try:
            version(package)
        except PackageNotFoundError as error:
            raise UserError(f"{package} is not installed; pip install 'hrt-mm[peers]', or give --no-peers") from error
    return list(CONTENDERS)


def run(options: argparse.Namespace) -> Result:
    """Finds each contender's rate, then trains all: on a CPU as many at a time as there are threads."""
    names = installed() if options.peers else [name for name in CONTENDERS if name not in PEERS]
    seconds = 2.0 if options.quick else 60.0 * options.minutes
    probe = 1.0 if options.quick else options.probe
    rates = options.rates
    with ThreadPoolExecutor(torch.get_num_threads() if options.device.type == "cpu" else 1) as pool:
        tried = {
            (name, rate): pool.submit(_process, name, rate, probe, options)
            for name in names
            for rate in (rates if len(rates) > 1 else ())
        }
        probes = {key: future.result()["curve"][-1][2] for key, future in tried.items()}
        best = {name: min((probes.get((name, rate), 0.0), rate) for rate in rates)[1] for name in names}
        final = {name: pool.submit(_process, name, best[name], seconds, options) for name in names}
        results = {name: future.result() for name, future in final.items()}
    rows = _rows(results, best)
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"context": options.context, "batch": options.batch, "seconds": seconds, "probe_seconds": probe}
        | {"packages": {name: version(package) for name, package in PEERS.items() if name in names}},
        checks={f"{name}, causality": item["causal_error"] for name, item in results.items()},
        rows=rows,
        bars=[] if options.quick else _bars(results),
        details={
            "curves": {name: item["curve"] for name, item in results.items()},
            "probes": {f"{name} at {rate:g}": value for (name, rate), value in probes.items()},
        },
        **environment(options.device),
    )


def at(curve: Sequence[Sequence[float]], seconds: float) -> float:
    """Bits per byte at a time, between the points of the curve on a straight line."""
    earlier = [point for point in curve if point[0] <= seconds]
    after = [point for point in curve if point[0] >= seconds]
    if not earlier:
        return after[0][2]
    if not after:
        return earlier[-1][2]
    (t0, _, b0), (t1, _, b1) = earlier[-1], after[0]
    return b0 if t1 == t0 else b0 + (b1 - b0) * (seconds - t0) / (t1 - t0)


def _rows(results: dict[str, Any], best: dict[str, float]) -> list[Row]:
    rows = []
    last = min(result["curve"][-1][0] for result in results.values())
    for seconds in [*(mark for mark in MARKS if mark < last), last]:
        contenders = {
            name: Measured(
                seconds=seconds,
                scores={
                    "bits_per_byte": at(result["curve"], seconds),
                    "steps": result["curve"][-1][1] * seconds / result["curve"][-1][0],
                    "parameters": result["parameters"],
                    "lr": best[name],
                },
            )
            for name, result in results.items()
        }
        bits_per_byte = contenders["hierarchy"].scores["bits_per_byte"] or 0.0
        ratios = {
            f"{name}/hierarchy bits per byte": (measured.scores["bits_per_byte"] or 0.0) / bits_per_byte
            for name, measured in contenders.items()
            if name != "hierarchy"
        }
        rows.append(Row(sizes={"seconds": round(seconds, 1)}, contenders=contenders, ratios=ratios))
    return rows


def _bars(results: dict[str, Any]) -> list[Bar]:
    """Ahead of every other at every point from the first minute on."""
    hierarchy = results["hierarchy"]["curve"]
    bars = []
    for name, other in results.items():
        if name == "hierarchy":
            continue
        times = [point[0] for point in other["curve"] if point[0] >= 60]
        if not times:
            continue
        leads = [at(other["curve"], seconds) - at(hierarchy, seconds) for seconds in times]
        bars.append(
            Bar(
                claim=f"bits per byte less than {name}'s, from 60 s on: least lead",
                goal="above 0",
                measured=f"{min(leads):+.3f}",
                met=min(leads) > 0,
            )
        )
    return bars


def tables(result: Result) -> str:
    """The result as Markdown."""
    names = list(result.rows[0].contenders)
    where = "one thread" if result.device.startswith("CPU") else "the GPU"
    body = []
    for row in result.rows:
        scores = [row.contenders[name].scores["bits_per_byte"] for name in names]
        body.append([f"{row.sizes['seconds']:.0f}", *("" if score is None else f"{score:.3f}" for score in scores)])
    last = result.rows[-1].contenders
    facts = [
        [
            name,
            f"{last[name].scores['parameters']:,.0f}",
            f"{last[name].scores['lr']:g}",
            f"{last[name].scores['steps']:,.0f}",
        ]
        for name in names
    ]
    return "\n\n".join(
        [
            f"Bits per byte on held-out sources after seconds of training on {where}; windows of "
            f"{result.settings['context']} bytes, {result.settings['batch']} a step:",
            markdown(["seconds", *names], body),
            markdown(["contender", "parameters", "learning rate", "steps"], facts),
        ]
    )


def picture(result: Result, file: Path) -> None:
    """Draws the curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in result.details["curves"].items():
        seconds, _, bits = zip(*curve, strict=True)
        axes.plot(seconds, bits, marker="o", markersize=3, label=name, linewidth=2.5 if name == "hierarchy" else 1.2)
    axes.set(xlabel="seconds of training", ylabel="bits per byte, held out")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--minutes", type=float, default=5.0, help="training time of each contender; 5 when absent")
    options.add_argument("--probe", type=float, default=45.0, help="seconds of each learning rate's trial")
    options.add_argument(
        "--rates", nargs="+", type=float, default=RATES, help="learning rates to try; a single one is taken untried"
    )
    options.add_argument("--batch", type=positive, default=1, help="windows a step")
    options.add_argument("--context", type=positive, default=2048, help="bytes of a window")
    options.add_argument("--no-peers", dest="peers", action="store_false", help="the project's own models alone")
    options.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    options.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return options


if __name__ == "__main__":
    if "--contender" in sys.argv:
        train_one(arguments().parse_args())
        raise SystemExit(0)
    raise SystemExit(main(arguments(), run, tables, picture=picture))
