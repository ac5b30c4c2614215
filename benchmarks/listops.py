"""ListOps: a hierarchy whose groups are operations against its flat control, at equal time and parameters, by seeds.

Without a GPU it is the short variant: expressions of 31 to 149 symbols. Each contender and seed is trained by
``hrt-mm train`` for the same processor time, in the precision in which its steps are faster, with the same data, batch
and optimizer. ``pretrained`` is the hierarchy of the first seed after self-pretraining: hidden symbols of the training
expressions are given back, with time of its own before the same time with labels.

``--full`` is the task of Long Range Arena (arXiv 2011.04006), 501 to 1999 symbols, for a GPU: ``text/listops`` for all
its steps, from scratch and self-pretrained.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hrt_mm.config import load_config
from hrt_mm.data.dataset import Dataset
from hrt_modalities.corpora.listops import OPERATORS
from hrt_modalities.corpora.listops_data import ListOps

from .command import main, parser, positive
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment
from .runs import Finished, flat, for_minutes, precisions, scores, trained, written

NAME = "listops"
SHORT, FULL = "text/listops_short", "text/listops"
PRECISION = {"hierarchy": "fp32", "pretrained": "fp32", "flat": "bf16"}
"""On a CPU: narrow matrices gain nothing from bfloat16, and wide ones do."""
MARGIN = 0.05
"""Accuracy by which the hierarchy must lead at every seed."""
BASE_PARAMETERS, KNOWN, AIM = 9.2e6, 0.4953, 0.5960
"""The blocks of Long Range Arena's transformer (8.4 M) and a tenth more; accuracies of H-Transformer-1D and of S4."""
QUICK = ["data.train=64", "data.val=32", "data.test=32", "train.batch_size=8"]


def configs(options: argparse.Namespace, folder: Path) -> dict[str, str | Path]:
    """Each contender's configuration."""
    base = load_config(FULL if options.full else SHORT)
    configurations: dict[str, str | Path] = {"hierarchy": FULL if options.full else SHORT}
    if not options.full:
        configurations["flat"] = written(flat(base), folder / "flat.yaml")
    return configurations | {"pretrained": configurations["hierarchy"]}


def pretrain(options: argparse.Namespace) -> str:
    """The override that pre-trains: a tenth of the symbols is hidden, as in arXiv 2310.02980."""
    task = "{type: masked, unit: symbols, ratio: 0.1}"
    if options.full:
        return f"train.pretrain={{task: {task}, steps: {options.pretrain_steps}}}"
    minutes = 0.02 if options.quick else options.pretrain_minutes
    return f"train.pretrain={{task: {task}, steps: 1000000, time_limit: {minutes}}}"


def train(name: str, seed: int, config: str | Path, folder: Path, options: argparse.Namespace) -> Finished:
    """One contender at one seed."""
    words = [f"train.seed={seed}", "train.eval_batches=16", "train.log_every=50"]
    if options.full:
        words += [f"train.device={options.device.type}", *([f"train.steps={options.steps}"] if options.steps else [])]
    else:
        words += for_minutes(0.03 if options.quick else options.minutes, options.device)
    words.append(f"train.precision={precisions(PRECISION, options.device)[name]}")
    words += [pretrain(options)] if name == "pretrained" else []
    return trained(config, folder / f"{name}-{seed}", [*words, *(QUICK if options.quick else ())])


def guesses(data: dict[str, Dataset]) -> dict[str, float]:
    """Accuracies on the test split without reading an expression, or without reading what is nested in it."""
    train, test = data["train"], data["test"]
    assert isinstance(train, ListOps) and isinstance(test, ListOps)
    commonest = Counter(train.values).most_common(1)[0][0]
    texts = [test.content[test.ends[index] : test.ends[index + 1]].decode() for index in range(len(test))]
    values = list(test.values)
    return {
        "the commonest value": sum(value == commonest for value in values) / len(values),
        "the outermost operator over its own digits": sum(map(_outermost_is, texts, values)) / len(values),
    }


def _outermost_is(expression: str, value: int) -> bool:
    depth, digits = 0, []
    for symbol in expression:
        if symbol in OPERATORS or symbol == "]":
            depth += 1 if symbol in OPERATORS else -1
        elif depth == 1:
            digits.append(int(symbol))
    return bool(digits) and OPERATORS[expression[0]](digits) == value


def run(options: argparse.Namespace) -> Result:
    """Trains all contenders at all seeds, one after another."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results: dict[str, list[Finished]] = {}
        for contender, config in configs(options, folder).items():
            if contender == "pretrained" and not options.pretrain:
                continue
            seeds = 1 if contender == "pretrained" else options.seeds
            results[contender] = [train(contender, seed, config, folder, options) for seed in range(seeds)]
    row = Row(
        sizes={"task": "full" if options.full else "short"},
        contenders={name: _measured(runs) for name, runs in results.items()},
        ratios={},
    )
    data = load_config(FULL if options.full else SHORT, QUICK if options.quick else ()).data
    baselines = guesses({split: data.build(split) for split in ("train", "test")})
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"seeds": options.seeds, "config": FULL if options.full else SHORT, "guesses": baselines}
        | ({} if options.full else {"minutes": options.minutes})
        | ({"pretrain_minutes": options.pretrain_minutes} if options.pretrain and not options.full else {})
        | {"precision": precisions(PRECISION, options.device)},
        checks={},
        rows=[row],
        bars=[] if options.quick else (_full_bars(row) if options.full else _bars(results)),
        details={
            "accuracy": {name: [run.metric("test/accuracy") for run in runs] for name, runs in results.items()},
            "curves": {name: [run.curve("val/accuracy") for run in runs] for name, runs in results.items()},
        },
        **environment(options.device),
    )


def _measured(runs: list[Finished]) -> Measured:
    """The mean over the seeds, the least and the most."""
    each = [scores(run, {"accuracy": "test/accuracy", "macro_f1": "test/macro_f1"}) for run in runs]
    mean: dict[str, float | None] = {key: statistics.fmean(one[key] for one in each) for key in each[0]}
    accuracies = [one["accuracy"] for one in each]
    spread: dict[str, float | None] = {"least": min(accuracies), "most": max(accuracies), "seeds": float(len(runs))}
    return Measured(seconds=mean["seconds"], scores=mean | spread)


def _bars(results: dict[str, list[Finished]]) -> list[Bar]:
    pairs = zip(results["hierarchy"], results["flat"], strict=True)
    leads = [item.metric("test/accuracy") - other.metric("test/accuracy") for item, other in pairs]
    claim = f"short, test accuracy over flat's at equal time: least lead of {len(leads)} seed(s)"
    bars = [Bar(claim=claim, goal=f"{MARGIN:.0%} or more", measured=f"{min(leads):+.1%}", met=min(leads) >= MARGIN)]
    sizes = [results[name][0].summary["parameters"] for name in ("hierarchy", "flat")]
    apart = abs(sizes[1] / sizes[0] - 1)
    return [*bars, Bar(claim="parameters apart", goal="2% or less", measured=f"{apart:.1%}", met=apart <= 0.02)]


def _full_bars(row: Row) -> list[Bar]:
    bars = []
    for name, measured in row.contenders.items():
        accuracy = measured.scores["accuracy"] or 0.0
        for what, least in (("H-Transformer-1D's", KNOWN), ("S4's, the aim", AIM)):
            claim = f"full ListOps, {name}: test accuracy over {what}"
            bars.append(Bar(claim=claim, goal=f"{least:.2%}", measured=f"{accuracy:.2%}", met=accuracy > least))
    size = row.contenders["hierarchy"].scores["parameters"] or 0.0
    claim = "full ListOps: parameters, with a tenth more than the benchmark's transformer"
    goal = f"{BASE_PARAMETERS / 1e6:.1f} M or less"
    return [*bars, Bar(claim=claim, goal=goal, measured=f"{size / 1e6:.1f} M", met=size <= BASE_PARAMETERS)]


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["contender", "seeds", "test accuracy", "least", "most", "parameters", "steps", "seconds with labels"]
    body = []
    for name, measured in result.rows[0].contenders.items():
        scores = {key: value or 0.0 for key, value in measured.scores.items()}
        shares = [f"{scores[key]:.1%}" for key in ("accuracy", "least", "most")]
        sizes = [f"{scores[key]:,.0f}" for key in ("parameters", "steps", "seconds")]
        body.append([name, f"{scores['seeds']:.0f}", *shares, *sizes])
    guessed = ", ".join(f"{what} {share:.1%}" for what, share in result.settings["guesses"].items())
    return f"{_said(result.settings)} Guesses: {guessed}.\n\n{markdown(head, body)}"


def _said(settings: dict[str, Any]) -> str:
    if "minutes" not in settings:
        return f"`{settings['config']}`, all its steps."
    text = f"`{settings['config']}`, {settings['minutes']:g} minutes of processor time on one thread for each"
    if "pretrain_minutes" in settings:
        text += f"; `pretrained` had {settings['pretrain_minutes']:g} minutes without labels before"
    return f"{text}."


def picture(result: Result, file: Path) -> None:
    """Draws accuracy on held-out expressions against seconds with labels, a line a seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (name, curves) in enumerate(result.details["curves"].items()):
        for number, curve in enumerate(curves):
            if curve:
                seconds, _, accuracy = zip(*curve, strict=True)
                axes.plot(seconds, accuracy, color=f"C{index}", linewidth=1.5, label=None if number else name)
    axes.set(xlabel="seconds of training with labels", ylabel="accuracy on validation expressions")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--minutes", type=float, default=2.5, help="of each contender and seed; 2.5 when absent")
    options.add_argument("--seeds", type=positive, default=3, help="seeds; 3 when absent")
    options.add_argument("--no-pretrain", dest="pretrain", action="store_false", help="leave self-pretraining out")
    options.add_argument("--pretrain-minutes", type=float, default=2.5, help="of self-pretraining; 2.5 when absent")
    options.add_argument("--full", action="store_true", help="the full task; hours on a CPU, so for a GPU")
    options.add_argument("--steps", type=positive, help="of the full task; those of its configuration when absent")
    options.add_argument("--pretrain-steps", type=positive, default=20000, help="of the full task; 20,000 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables, picture=picture))
