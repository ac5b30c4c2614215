"""Learned groups, looked at: where a trained byte model cuts Python and English, and what that is worth.

The quickstart's language model (``text/quickstart``) is trained by the project's own command with four groupings, each
for the same processor time on one thread: learned groups by uncertainty (after BLT, arXiv 2412.09871) and by difference
(H-Net, arXiv 2507.07955), a fixed stride of as many bytes as learned groups aim at, and words given by spaces and signs
(SpaceByte, arXiv 2404.14408).
Then each cuts sources and prose that it was not trained on. Cuts are compared with the starts of words that Unicode's
rules give, beside as many cuts evenly spaced and at random. The prose are paragraphs of docstrings of held-out sources.
"""

from __future__ import annotations

import argparse
import ast
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrt_mm.analysis.report.cuts import LevelCuts, marked_text, with_boundaries
from hrt_mm.core.errors import UserError
from hrt_mm.core.tokens import Tokens
from hrt_mm.inference.trained import TrainedRun, load_task
from hrt_mm.tasks import Batch, LanguageModel
from hrt_modalities.text import Text
from hrt_modalities.text.corpus import Corpus, CorpusConfig

from .checks import must_equal
from .command import main, parser, positive
from .markdown import markdown
from .results import Bar, Measured, Result, Row, environment

NAME = "boundaries"
CONFIG = "text/quickstart"
CONTENDERS = ("uncertainty", "difference", "fixed", "spaces")
LEARNED = ("uncertainty", "difference")
TEXTS = ("Python", "English")
BOUNDARIES = ("words", "spaces")
LINES, WIDE = 10, 110
"""Lines that are printed with their cuts, and the longest of these."""
PARAGRAPH = 80
"""Characters that a paragraph of prose has at least."""
ASIDE = 0.1
"""How far the bytes a group may be from the target, as a share of it."""
BEHIND = 0.02
"""How much more bits a byte than given words learned groups may need."""
WORDS_F1 = 0.6
"""F1 against starts of words that learned groups should have on English."""
QUICK = (
    "model.levels.bytes.dim=32",
    "model.levels.bytes.heads=1",
    "model.levels.phrases.dim=32",
    "model.levels.phrases.heads=1",
    "model.levels.phrases.depth=1",
)


@dataclass
class Seen:
    """What a model made of a text.

    Args:
        cuts: its groups beside boundaries.
        nats: that it spent.
        num_bytes: that it predicted.
        lines: the first lines with marks.
    """

    cuts: LevelCuts
    nats: float = 0.0
    num_bytes: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def bits_per_byte(self) -> float:
        """All that was spent over the bytes predicted."""
        return self.nats / math.log(2) / self.num_bytes

    @property
    def tokens_per_group(self) -> float:
        """The compression that it came to."""
        return self.cuts.tokens / self.cuts.groups


def group(name: str, options: argparse.Namespace) -> str:
    """The grouping of a contender, as YAML."""
    longest = f"max: {options.max}"
    if name == "fixed":
        return f"{{type: fixed, stride: {options.target}}}"
    if name == "spaces":
        return f"{{type: given, boundary: spaces, {longest}, typical: {options.target}}}"
    # A gradient needs short groups at first; a regression has what it learns from at once.
    warmup = f", warmup: {options.warmup}" if name == "difference" else ""
    return f"{{type: learned, signal: {name}, target: {options.target}, {longest}{warmup}}}"


def train(name: str, folder: Path, seconds: float, options: argparse.Namespace) -> Path:
    """Trains a contender in a process of its own.

    Raises:
        UserError: the run failed; gives its last words.
    """
    run = folder / name
    words = [sys.executable, "-m", "hrt_mm", "train", CONFIG, f"run.dir={run}", f"train.time_limit={seconds / 60}"]
    words += ["train.clock=cpu"]
    words += [f"model.levels.bytes.group={group(name, options)}", f"data.context={options.context}"]
    words += ["train.steps=1000000", "train.eval_every=null", "train.save_every=null", "train.test=false"]
    words += ["train.device=cpu", "train.precision=fp32", "train.num_threads=1", "train.tensorboard=false"]
    words += QUICK if options.quick else ()
    with run.with_suffix(".log").open("w+") as log:
        done = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False)
        log.seek(0)
        output = log.read().strip().splitlines()
    if done.returncode:
        raise UserError(f"the run of {name} failed: {' '.join(output[-3:])}")
    print(f"{name}: trained for {seconds:.0f} s", file=sys.stderr, flush=True)
    return run


def held_out(options: argparse.Namespace) -> dict[str, list[Text]]:
    """Windows of sources that no contender was trained on, and of the prose in their docstrings."""
    config = CorpusConfig(type="corpus", context=options.context, val=0.02, test=0.02)
    splits = [config.build(split) for split in ("test", "val")]
    corpus = splits[0]
    indices = torch.linspace(0, max(0, len(corpus) - 2), min(options.windows, len(corpus))).long().unique()
    python = [corpus[int(index)].value for index in indices]
    english = list(windows([part for one in splits for part in prose(one)], options.context - 1))
    return {"Python": python, "English": english[: options.windows]}


def prose(corpus: Corpus) -> Iterator[str]:
    """Paragraphs of the docstrings of a corpus of Python sources, those that are running text."""
    source = corpus.source
    for document, size in enumerate(source.sizes.tolist()):
        try:
            tree = ast.parse(source.read(document, 0, size))
        except (SyntaxError, ValueError):
            # Some sources of the standard library are there to be wrong.
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                paragraphs = (ast.get_docstring(node) or "").split("\n\n")
                yield from (part.strip("\n") for part in paragraphs if _runs(part.strip("\n")))


def _runs(paragraph: str) -> bool:
    """Whether a paragraph is running text, no list, no table and no code."""
    lines = paragraph.splitlines()
    return len(paragraph) >= PARAGRAPH and ">>>" not in paragraph and not any(line[:1] in " -*+|=" for line in lines)


def windows(paragraphs: Sequence[str], size: int) -> Iterator[Text]:
    """Documents of whole paragraphs, ``size`` bytes at most; longer paragraphs are cut."""
    buffer = b""
    for paragraph in paragraphs:
        raw = paragraph.encode()[: size - 1] + b"\n"
        if buffer and len(buffer) + 1 + len(raw) > size:
            yield Text(buffer, (0,))
            buffer = b""
        buffer += (b"\n" if buffer else b"") + raw
    if buffer:
        yield Text(buffer, (0,))


@torch.no_grad()
def look(run: TrainedRun, texts: Sequence[Text], target: float) -> Seen:
    """Cuts texts and predicts their bytes."""
    task = run.task
    assert isinstance(task, LanguageModel)
    seen = Seen(LevelCuts("bytes", target))
    generator = np.random.default_rng(0)
    for text in texts:
        tokens, _ = with_boundaries(run.tokenizer, [text])
        nats, count = task(Batch.of(tokens)).stats["bits_per_byte"]
        seen.nats += float(nats) * math.log(2)
        seen.num_bytes += int(count)
        cuts = seen.cuts.add(task.encoder(tokens), tokens, BOUNDARIES, generator)
        if len(seen.lines) < LINES:
            marked = marked_text(run.tokenizer, tokens, cuts) or ""
            # The first line of a window is the end of one.
            lines = [line[:WIDE] for line in marked.splitlines()[1:] if line.strip(" \t·")]
            seen.lines += lines[: LINES - len(seen.lines)]
    return seen


@torch.no_grad()
def check_causal(run: TrainedRun, text: Text) -> float:
    """The relative difference of what is predicted before a byte that changed, which must change nothing.

    Raises:
        CheckFailed: it does.
    """
    task = run.task
    assert isinstance(task, LanguageModel)
    tokens, _ = with_boundaries(run.tokenizer, [text])
    position = tokens.spans.total // 2
    changed = bytearray(content := _raw(text))
    first = position - len(text.documents)
    changed[first] = (content[first] + 1) % 256
    other, _ = with_boundaries(run.tokenizer, [Text(bytes(changed), text.documents)])

    def before(given: Tokens) -> Tensor:
        return task.logits(task.encoder(given)[0].x[:first])

    return must_equal(f"{run.folder.name}, causality", [before(other)], [before(tokens)], 1e-4)


def _raw(text: Text) -> bytes:
    assert isinstance(text.content, bytes)
    return text.content


def run(options: argparse.Namespace) -> Result:
    """Trains all contenders, as many at a time as there are threads, and looks at each."""
    if options.device.type != "cpu":
        raise UserError("this benchmark trains on one CPU thread each; drop --device")
    if options.target > options.max:
        raise UserError(f"--target {options.target} is longer than --max {options.max}; raise --max")
    seconds = 1.0 if options.quick else 60.0 * options.minutes
    if options.quick:
        options.context, options.windows = 256, 3
    texts = held_out(options)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max(1, torch.get_num_threads())) as pool:
        started = {name: pool.submit(train, name, Path(folder), seconds, options) for name in CONTENDERS}
        runs = {name: load_task(future.result()) for name, future in started.items()}
    checks = {f"{name}, causality": check_causal(by_text, texts["English"][0]) for name, by_text in runs.items()}
    results = {
        name: {text: look(by_text, texts[text], options.target) for text in TEXTS} for name, by_text in runs.items()
    }
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"target": options.target, "max": options.max, "warmup": options.warmup, "context": options.context}
        | {"seconds": seconds, "config": CONFIG, "bytes": {text: results["fixed"][text].num_bytes for text in TEXTS}},
        checks=checks,
        rows=[_row(text, {name: by_text[text] for name, by_text in results.items()}, runs, seconds) for text in TEXTS],
        bars=[] if options.quick else _bars(results, options.target),
        details={
            "cuts": {name: {text: results[name][text].lines for text in TEXTS} for name in LEARNED},
            "scores": {name: {text: _scores(by_text[text]) for text in TEXTS} for name, by_text in results.items()},
        },
        **environment(options.device),
    )


def _row(text: str, seen: dict[str, Seen], runs: dict[str, TrainedRun], seconds: float) -> Row:
    contenders = {}
    for name, seen_text in seen.items():
        state = runs[name].checkpoint
        words = seen_text.cuts.scores["words"]
        contenders[name] = Measured(
            seconds=seconds,
            scores={
                "bits_per_byte": seen_text.bits_per_byte,
                "bytes_per_group": seen_text.tokens_per_group,
                "words_f1": words["cuts", 0].f1,
                "words_f1_even": words["even", 0].f1,
                "words_f1_random": words["random", 0].f1,
                "parameters": sum(parameter.numel() for parameter in runs[name].task.parameters()),
                "steps": state.step,
            },
        )
    bits = {name: seen_text.bits_per_byte for name, seen_text in seen.items()}
    ratios = {f"{name}/fixed bits per byte": bits[name] / bits["fixed"] for name in bits if name != "fixed"}
    return Row(sizes={"text": text, "bytes": seen["fixed"].num_bytes}, contenders=contenders, ratios=ratios)


def _scores(seen: Seen) -> dict[str, Any]:
    """Precision, recall and F1 by boundary, contender and tolerance."""
    return {
        boundary: {
            f"{who}, within {tolerance}": [round(share, 4) for share in (one.precision, one.recall, one.f1)]
            for (who, tolerance), one in table.items()
        }
        for boundary, table in seen.cuts.scores.items()
    }


def _bars(results: dict[str, dict[str, Seen]], target: float) -> list[Bar]:
    bars = []
    for name in LEARNED:
        for text in TEXTS:
            words = results[name][text].cuts.scores["words"]
            best_control = max(words["even", 0].f1, words["random", 0].f1)
            f1 = words["cuts", 0].f1
            claim = f"{name}, {text}: F1 against starts of words, over even and random cuts"
            bars.append(Bar(claim=claim, goal=f"above {best_control:.3f}", measured=f"{f1:.3f}", met=f1 > best_control))
        size = results[name]["Python"].tokens_per_group
        goal = f"{target:g} by {ASIDE:.0%}"
        met = abs(size / target - 1) <= ASIDE
        bars.append(Bar(claim=f"{name}, Python: bytes a group", goal=goal, measured=f"{size:.2f}", met=met))
        f1 = results[name]["English"].cuts.scores["words"]["cuts", 0].f1
        claim = f"{name}, English: F1 against starts of words"
        bars.append(Bar(claim=claim, goal=f"at least {WORDS_F1:g}", measured=f"{f1:.3f}", met=f1 >= WORDS_F1))
        bits = {other: results[other]["Python"].bits_per_byte for other in (name, "fixed", "spaces")}
        for other, most in (("fixed", bits["fixed"]), ("spaces", bits["spaces"] * (1 + BEHIND))):
            than = "the fixed stride's" if other == "fixed" else f"those of given words and {BEHIND:.0%}"
            claim = f"{name}, bits per byte of Python: at most {than} at equal time"
            goal, measured = f"at most {most:.3f}", f"{bits[name]:.3f}"
            bars.append(Bar(claim=claim, goal=goal, measured=measured, met=bits[name] <= most))
    return bars


def tables(result: Result) -> str:
    """The result as Markdown."""
    head = ["text", "groups", "bits per byte", "bytes a group", "F1, words", "even cuts", "random cuts", "steps"]
    body = []
    for row in result.rows:
        for name, measured in row.contenders.items():
            scores = {key: value for key, value in measured.scores.items() if value is not None}
            shares = [f"{scores[key]:.3f}" for key in ("words_f1", "words_f1_even", "words_f1_random")]
            sizes = [f"{scores['bits_per_byte']:.3f}", f"{scores['bytes_per_group']:.2f}"]
            body.append([str(row.sizes["text"]), name, *sizes, *shares, f"{scores['steps']:,.0f}"])
    settings = result.settings
    parts = [
        f"After {settings['seconds']:.0f} s of processor time on one thread each; learned groups aim at "
        f"{settings['target']} bytes, {settings['max']} at most. Of held-out sources "
        f"{settings['bytes']['Python']:,} bytes, of prose {settings['bytes']['English']:,}:",
        markdown(head, body),
    ]
    for name, texts in result.details["cuts"].items():
        for text, lines in texts.items():
            parts.append(f"Where the model with {name} groups cuts {text}:")
            parts.append("\n".join(["```text", *(line.replace("```", "'''") for line in lines), "```"]))
    return "\n\n".join(parts)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--minutes", type=float, default=2.5, help="processor time of each contender; 2.5 when absent")
    options.add_argument("--target", type=positive, default=6, help="bytes a group that learned groups aim at")
    options.add_argument("--max", type=positive, default=24, help="bytes of the longest group")
    options.add_argument("--warmup", type=positive, default=60, help="steps until the target is the whole one")
    options.add_argument("--context", type=positive, default=2048, help="bytes of a window")
    options.add_argument("--windows", type=positive, default=32, help="held-out windows of each text, at most")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables))
