"""Everything that needs a GPU, in one command and one JSON file: ``make gpu-check``.

Runs the tests marked ``gpu``, then each benchmark on CUDA, each in a process of its own with a time limit, within 11.5
minutes in all. A part for which too little time is left is not run, and counts as a failure. The benchmarks' results
also go to ``benchmarks/results/``, for the tables. One part that fails does not stop the others, and the JSON file is
written after each. ``--device cpu --quick`` rehearses all of it where there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import torch

from hrt_mm.core.errors import UserError

from . import encoder_scaling, mfu
from .command import main, parser
from .markdown import markdown, times
from .results import FOLDER, Bar, Measured, Result, Row, environment, read, slug, write

NAME = "gpu_check"
ROOT = Path(__file__).parent.parent
SECONDS = 690.0
"""Of all parts together: 12 minutes with what surrounds them."""


class Part(NamedTuple):
    """A part of the check.

    Args:
        words: options of its command.
        limit: seconds after which it is stopped.
        least: seconds without which it is not started.
    """

    words: Sequence[str]
    limit: float
    least: float = 30.0


TESTS = Part(["-q", "-m", "gpu"], limit=150)
BENCHMARKS: dict[str, Part] = {
    "encoder_scaling": Part(["--no-peers", "--budget", "3"], limit=210),
    "mfu": Part(["--budget", "10"], limit=150),
    "overhead": Part(["--budget", "3"], limit=90),
    "decode": Part(["--budget", "3"], limit=90),
    # Three contenders of a minute each, one after the other, at a rate that trained all of them on a CPU.
    "lm": Part(["--no-peers", "--minutes", "1", "--batch", "16", "--rates", "2e-3"], limit=240, least=200),
}
"""In this order, the most important first. Memory is measured by ``encoder_scaling``, ``overhead`` and ``mfu``."""
LONGER = ("learning_rate --seeds 1", "audio --no-accuracy", "listops --full", "shakespeare --minutes 20")
"""Benchmarks that would take the check beyond its time: each is a command of its own."""
COUNTS = ("tests", "failures", "errors", "skipped")
SPEED_GOALS = {2048: 1.0, 16384: 5.0, 65536: 15.0}
"""How much faster than flat the hierarchy must be in bf16, by tokens."""
MEMORY_GOAL = {16384: 0.25}
"""Most of the flat control's memory that it may take, by tokens."""
FLASH = ("varlen", "flash_attn")
"""Attention backends that are FlashAttention-2 or later."""


class NoDevice(UserError):
    """There is no CUDA device to check."""


class Budget:
    """Time that all parts share.

    Args:
        seconds: of all parts together. Above ``SECONDS``, as for a rehearsal on a slow machine, the limits of the parts
            grow with it.
        clock: seconds that pass.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock, self._start = seconds, clock, clock()
        self._scale = max(1.0, seconds / SECONDS)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.seconds - (self._clock() - self._start))

    def limit(self, part: Part) -> float | None:
        """Seconds that a part may take: its own limit or what is left; ``None`` where that is too little to start."""
        allowed = part.limit * self._scale
        return None if self.left < min(part.least, allowed) else min(allowed, self.left)


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
    budget = Budget(options.seconds)
    tests, parts = _unstarted("not run yet") | {"counts": dict.fromkeys(COUNTS, 0)}, dict[str, dict[str, Any]]()
    for name in BENCHMARKS:
        parts[name] = _unstarted("not run yet")
    with tempfile.TemporaryDirectory() as folder:
        tests = _tests(Path(folder), options.tests, budget)
        for name, part in BENCHMARKS.items():
            if options.json is not None:
                write(_result(options, tests, parts), options.json)
            parts[name] = _benchmark(name, part, options, Path(folder), budget)
    return _result(options, tests, parts)


def _result(options: argparse.Namespace, tests: dict[str, Any], parts: Mapping[str, dict[str, Any]]) -> Result:
    good = {"passed", "all skipped"} if options.rehearsal else {"passed"}
    bars = [
        Bar(claim=claim, goal=goal, measured=part["outcome"], met=part["outcome"] in good)
        for claim, goal, part in (
            ("tests marked gpu", "pass", tests),
            *((f"benchmark {name}", "runs, and its checks hold", part) for name, part in parts.items()),
        )
    ]
    measured = {name: Result.model_validate(part["result"]) for name, part in parts.items() if "result" in part}
    return Result(
        name=NAME,
        command=options.command,
        quick=options.quick,
        settings={"seconds": options.seconds, "limit_seconds": {name: part.limit for name, part in BENCHMARKS.items()}},
        checks={},
        rows=[_row("pytest", tests), *(_row(name, part) for name, part in parts.items())],
        bars=[*bars, *goals(measured)],
        details={"pytest": tests, "benchmarks": parts},
        **environment(options.device),
    )


def goals(results: Mapping[str, Result]) -> list[Bar]:
    """The project's goals on a GPU, as far as there are figures. Quick figures say nothing.

    Args:
        results: of the benchmarks, by name.
    """
    bars: list[Bar] = []
    scaling = results.get(encoder_scaling.NAME)
    if scaling is not None and not scaling.quick:
        for dtype, name in scaling.settings["attention"].items():
            claim = f"flat control on FlashAttention-2 or later, {dtype}"
            bars.append(Bar(claim=claim, goal=" or ".join(FLASH), measured=name, met=name in FLASH))
        for row in scaling.rows:
            if row.sizes["dtype"] == "bfloat16":
                bars += _scaling_goals(row)
    utilization = results.get(mfu.NAME)
    return bars if utilization is None else [*bars, *utilization.bars]


def _scaling_goals(row: Row) -> list[Bar]:
    tokens = int(row.sizes["tokens"])
    where = f"{row.sizes['mode']}, bfloat16, {tokens} tokens"
    speed, share = row.ratios.get("flat/hierarchy seconds"), row.ratios.get("hierarchy/flat bytes")
    bars = []
    if speed is not None and (goal := SPEED_GOALS.get(tokens)) is not None:
        claim = f"faster than flat: {where}"
        bars.append(Bar(claim=claim, goal=f"{goal:g}x", measured=times(speed), met=speed >= goal))
    if share is not None and (most := MEMORY_GOAL.get(tokens)) is not None:
        claim = f"memory over flat's: {where}"
        bars.append(Bar(claim=claim, goal=f"{most:.0%} or less", measured=f"{share:.1%}", met=share <= most))
    return bars


def _row(name: str, part: dict[str, Any]) -> Row:
    started = part["exit_code"] is not None or part["seconds"] > 0
    measured = Measured(seconds=part["seconds"] if started else None, note="" if started else part["outcome"])
    return Row(sizes={"part": name}, contenders={name: measured}, ratios={})


def _unstarted(outcome: str) -> dict[str, Any]:
    return {"outcome": outcome, "exit_code": None, "seconds": 0.0}


def start(command: Sequence[str], part: Part, budget: Budget) -> dict[str, Any]:
    """Runs a command if there is time for it: see :func:`call`."""
    limit = budget.limit(part)
    if limit is None:
        left = f"{budget.left:.0f} of {budget.seconds:g} s were left, and it needs {part.least:g}"
        return _unstarted(f"not run: {left}")
    return call(command, limit)


def call(command: Sequence[str], limit: float) -> dict[str, Any]:
    """Runs a command: its outcome, seconds, exit code and the end of what it printed.

    Past the limit its whole process group is killed: what a benchmark started must not go on beside the next one.
    """
    print("$ " + " ".join(command), file=sys.stderr, flush=True)
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        text = output.read()
    outcome = {0: "passed", None: f"stopped after {limit:.3g} s"}.get(code, "failed")
    part = {"outcome": outcome, "exit_code": code, "seconds": time.perf_counter() - started}
    print(f"  {outcome} after {part['seconds']:.0f} s", file=sys.stderr, flush=True)
    return part if code == 0 else part | {"output": text[-4000:]}


def _tests(folder: Path, paths: Sequence[str], budget: Budget) -> dict[str, Any]:
    """Runs the tests marked ``gpu`` and counts what came of them. None at all is a failure."""
    report = folder / "pytest.xml"
    part = start([sys.executable, "-m", "pytest", *TESTS.words, f"--junitxml={report}", *paths], TESTS, budget)
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


def _benchmark(name: str, part: Part, options: argparse.Namespace, folder: Path, budget: Budget) -> dict[str, Any]:
    """Runs a benchmark and takes its result in."""
    path = folder / f"{name}.json"
    words = ["-m", f"benchmarks.{name}", "--device", options.device.type, *part.words]
    words += ["--quick"] if options.quick else []
    words += ["--no-memory"] if options.device.type == "cpu" else []
    outcome = start([sys.executable, *words, "--json", str(path)], part, budget)
    if path.exists():
        result = read(path)
        outcome["result"] = result.model_dump(mode="json")
        if not options.quick:
            stored = FOLDER / f"{name}-{slug(options.device)}.json"
            write(result, stored)
            if path.with_suffix(".png").exists():
                stored.with_suffix(".png").write_bytes(path.with_suffix(".png").read_bytes())
    return outcome


def tables(result: Result) -> str:
    """The result as Markdown."""
    body = [[bar.claim, bar.goal, bar.measured, "yes" if bar.met else "**no**"] for bar in result.bars]
    tally = result.details["pytest"]["counts"]
    summary = ", ".join(f"{tally[key]} {key}" for key in COUNTS)
    failed = [bar.claim for bar in result.bars if not bar.met]
    verdict = "all passed" if not failed else f"FAILED: {', '.join(failed)}; the output is in the result file"
    longer = ", ".join(f"`python -m benchmarks.{words}`" for words in LONGER)
    return (
        f"{markdown(['part or goal', 'goal', 'outcome', 'met'], body)}\n\n"
        f"pytest: {summary}\n\n{result.device}: {verdict}\n\n"
        f"Not run, as they take longer: {longer}"
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(NAME, __doc__ or "")
    options.add_argument("--tests", nargs="*", default=["tests"], metavar="PATH", help="where the tests lie")
    options.add_argument("--seconds", type=float, default=SECONDS, help="of all parts together; 690 when absent")
    return options


if __name__ == "__main__":
    raise SystemExit(main(arguments(), run, tables, strict=True))
