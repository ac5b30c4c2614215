"""Everything that needs a GPU, in one command and one JSON file: ``make gpu-check``.

Runs the tests marked ``gpu``, then each benchmark on CUDA, each in a process of its own with a time limit. The
benchmarks' results also go to ``benchmarks/results/``, for the tables. One part that fails does not stop the others.
``--device cpu --quick`` rehearses all of it where there is no GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from hrt_mm.core.errors import UserError

from .command import main, parser
from .markdown import markdown
from .results import FOLDER, Bar, Measured, Result, Row, environment, read, slug, write

NAME = "gpu_check"
ROOT = Path(__file__).parent.parent
BENCHMARKS: dict[str, list[str]] = {
    "encoder_scaling": ["--budget", "4"],
    "overhead": ["--budget", "10"],
    "learning_rate": ["--seeds", "1"],
    "decode": ["--budget", "5"],
    "shakespeare": ["--minutes", "2.5"],
    "audio": ["--budget", "3", "--no-accuracy"],
}
"""Each benchmark with options that keep it within ``LIMIT`` on a GPU."""
LONGER = ("listops --full", "shakespeare --minutes 20")
"""Benchmarks that take a GPU longer than a check may: each is a command of its own."""
LIMIT = 240
"""Seconds after which a part is stopped; the tests have three times as long."""
COUNTS = ("tests", "failures", "errors", "skipped")


class NoDevice(UserError):
    """There is no CUDA device to check."""


def run(options: argparse.Namespace) -> Result:
    """Runs all parts.

    Raises:
        NoDevice: there is no GPU, and it was not asked to rehearse on the CPU.
    """
    device: torch.device = options.device
    if device.type == "cpu" and not options.rehearsal:
        raise NoDevice(
            "PyTorch sees no CUDA device, so nothing was checked: the tests marked gpu did not run, and the figures on "
            "CUDA stay unmeasured. Run it on a machine with a GPU, or rehearse with --device cpu --quick"
        )
    with tempfile.TemporaryDirectory() as folder:
        tests = _tests(Path(folder), options.tests)
        parts = {name: _benchmark(name, more, options, Path(folder)) for name, more in BENCHMARKS.items()}
    good = {"passed", "all skipped"} if options.rehearsal else {"passed"}
    bars = [
        Bar(claim=claim, goal=goal, measured=part["outcome"], met=part["outcome"] in good)
        for claim, goal, part in (
            ("tests marked gpu", "pass", tests),
            *((f"benchmark {name}", "runs, and its checks hold", part) for name, part in parts.items()),
        )
    ]
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"limit_seconds": LIMIT},
        checks={},
        rows=[_row("pytest", tests), *(_row(name, part) for name, part in parts.items())],
        bars=bars,
        details={"pytest": tests, "benchmarks": parts},
        **environment(device),
    )


def _row(name: str, part: dict[str, Any]) -> Row:
    return Row(sizes={"part": name}, contenders={name: Measured(seconds=part["seconds"])}, ratios={})


def call(command: Sequence[str], limit: float) -> dict[str, Any]:
    """Runs a command: its outcome, seconds, exit code and the end of what it printed."""
    print("$ " + " ".join(command), file=sys.stderr, flush=True)
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit, check=False
        )
        code, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as error:
        code, text = (
            None,
            error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or "",
        )
    outcome = {0: "passed", None: f"stopped after {limit:g} s"}.get(code, "failed")
    part = {"outcome": outcome, "exit_code": code, "seconds": time.perf_counter() - start}
    print(f"  {outcome} after {part['seconds']:.0f} s", file=sys.stderr, flush=True)
    return part if code == 0 else part | {"output": text[-4000:]}


def _tests(folder: Path, paths: Sequence[str]) -> dict[str, Any]:
    """Runs the tests marked ``gpu`` and counts what came of them. None at all is a failure."""
    report = folder / "pytest.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}", *paths]
    part = call(command, 3 * LIMIT)
    part["counts"] = counts(report) if report.exists() else dict.fromkeys(COUNTS, 0)
    if part["outcome"] == "passed" and part["counts"]["skipped"] == part["counts"]["tests"]:
        part["outcome"] = "all skipped"
    if part["exit_code"] == 5:
        part["outcome"] = "no test is marked gpu"
    return part


def counts(report: Path) -> dict[str, int]:
    """Tests, failures, errors and skips, from pytest's JUnit file."""
    # The file is our own, written a moment ago.
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    totals = dict.fromkeys(COUNTS, 0)
    for suite in suites:
        for key in COUNTS:
            totals[key] += int(suite.get(key, 0))
    return totals


def _benchmark(name: str, more: Sequence[str], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Runs a benchmark and takes its result in."""
    path = folder / f"{name}.json"
    words = ["-m", f"benchmarks.{name}", "--device", options.device.type]
    words += ["--quick"] if options.quick else list(more)
    words += ["--no-memory"] if options.device.type == "cpu" else []
    part = call([sys.executable, *words, "--json", str(path)], LIMIT)
    if path.exists():
        result = read(path)
        part["result"] = result.model_dump(mode="json")
        if not options.quick:
            stored = FOLDER / f"{name}-{slug(options.device)}.json"
            write(result, stored)
            if path.with_suffix(".png").exists():
                stored.with_suffix(".png").write_bytes(path.with_suffix(".png").read_bytes())
    return part


def tables(result: Result) -> str:
    """The result as Markdown."""
    body = [[bar.claim, bar.measured] for bar in result.bars]
    tally = result.details["pytest"]["counts"]
    summary = ", ".join(f"{tally[key]} {key}" for key in COUNTS)
    failed = [bar.claim for bar in result.bars if not bar.met]
    verdict = "all passed" if not failed else f"FAILED: {', '.join(failed)}; the output is in the result file"
    longer = ", ".join(f"`python -m benchmarks.{words}`" for words in LONGER)
    return (
        f"{markdown(['part', 'outcome'], body)}\n\npytest: {summary}\n\n{result.device}: {verdict}\n\n"
        f"Not run, as they take longer: {longer}"
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--tests", nargs="*", default=["tests"], metavar="PATH", help="where the tests lie")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables, strict=True))
