"""The command line that all benchmarks share: ``python -m benchmarks.NAME [--quick] [--json FILE]``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hrt_mm.core.errors import UserError

from .checks import CheckFailed
from .results import FOLDER, Result, slug, write

Run = Callable[[argparse.Namespace], Result]
Tables = Callable[[Result], str]
Picture = Callable[[Result, Path], None]


def parser(name: str, doc: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    options = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, the figures say nothing")
    options.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="where the result goes; benchmarks/results/NAME-DEVICE.json when absent, and nowhere with --quick",
    )
    options.add_argument("--device", choices=("cpu", "cuda"), help="the GPU where there is one, when absent")
    options.add_argument(
        "--no-memory",
        dest="memory",
        action="store_false",
        help="leave memory out: on a CPU each figure takes a process",
    )
    options.add_argument("--threads", type=positive, help="CPU threads; PyTorch's choice when absent")
    return options


def positive(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between, for argparse."""
    return tuple(positive(part) for part in text.split(","))


def main(
    arguments: argparse.ArgumentParser,
    run: Run,
    tables: Tables,
    argv: Sequence[str] | None = None,
    *,
    picture: Picture | None = None,
    strict: bool = False,
) -> int:
    """Runs a benchmark, prints its tables and writes its result.

    Args:
        arguments: the benchmark's command line.
        run: measures.
        tables: the result as Markdown.
        argv: the command line's words; the process's own when absent.
        picture: draws the result, beside its file.
        strict: a bar that is not met is a failure.

    Returns:
        0; 1 where a check is red or the input is wrong, and then nothing is reported; 1 as well where ``strict`` fails.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    options = arguments.parse_args(given)
    options.command = shlex.join(["python", *arguments.prog.split()[1:], *_without_file(given)])
    options.rehearsal = options.device == "cpu" and options.quick
    try:
        options.device = _device(options.device)
        if options.threads:
            torch.set_num_threads(options.threads)
        result = run(options)
    except CheckFailed as error:
        print(f"no report: {error}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(tables(result))
    path = options.json or (None if options.quick else FOLDER / f"{result.name}-{slug(options.device)}.json")
    if path is not None:
        write(result, path)
        print(f"written to {path}")
        if picture is not None:
            picture(result, path.with_suffix(".png"))
    return int(strict and not all(bar.met for bar in result.bars))


def _without_file(given: list[str]) -> list[str]:
    """The words of a command line that change what is measured: all but ``--json FILE``."""
    arguments, words = [], iter(given)
    for word in words:
        if word == "--json":
            next(words, None)
        elif not word.startswith("--json="):
            arguments.append(word)
    return arguments


def _device(name: str | None) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but PyTorch sees no CUDA device; drop the option to run on the CPU")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
