"""Encoders against each other at growing lengths: what the benchmarks of sounds and of videos share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .contest import limited
from .markdown import markdown, mebibytes, milliseconds, times
from .memory import Prepared, Sizes
from .results import Result, Row, environment
from .steps import MODES

Prepare = Callable[[str, Sizes, Mapping[str, Any]], Prepared]
ROUNDS = (1, 20)
"""Fewest and most timed calls at a length."""


@dataclass(frozen=True)
class Contest:
    """A benchmark.

    Args:
        name: of the benchmark.
        contenders: the hierarchy first.
        unit: of lengths: ``seconds`` or ``frames``.
        shortest: a length that every contender takes at once.
        what: is told of a row, as ``one sound``.
        column: the head of the lengths' column.
        rate: the head of the column that tells how much the hierarchy reads a second.
    """

    name: str
    contenders: tuple[str, ...]
    unit: str
    shortest: float
    what: str
    column: str
    rate: str

    def settings(self, options: argparse.Namespace) -> dict[str, Any]:
        """What measurements need to know of the options."""
        return {
            "quick": options.quick,
            "device": options.device.type,
            "threads": torch.get_num_threads(),
            "memory": options.memory,
            "budget_seconds": 0.1 if options.quick else options.budget,
            "limit_seconds": options.limit,
        }

    def result(
        self,
        options: argparse.Namespace,
        prepare: Prepare,
        parameters: Mapping[str, int],
        lengths: Sequence[float],
        accuracy: Any = None,
    ) -> Result:
        """Measures all lengths and modes.

        Args:
            options: of the command line.
            prepare: makes a contender at a length.
            parameters: of each contender.
            lengths: in the contest's unit.
            accuracy: what was learned in equal time, where it was measured; called after the rest.
        """
        settings = self.settings(options)
        dtype = "bfloat16" if options.device.type == "cuda" else "float32"
        sizes: list[Sizes] = [{"mode": mode, "dtype": dtype, self.unit: length} for mode in MODES for length in lengths]
        rows = [self.row(prepare, item, settings) for item in sizes]
        details: dict[str, Any] = {"parameters": dict(parameters)}
        if accuracy is not None:
            details["accuracy"] = accuracy()
        first = parameters[self.contenders[0]]
        return Result(
            name=self.name,
            command=options.command,
            quick=options.quick,
            settings=settings,
            checks={f"{name}, parameters": abs(count / first - 1) for name, count in parameters.items()},
            rows=rows,
            details=details,
            **environment(options.device),
        )

    def row(self, prepare: Prepare, sizes: Sizes, settings: Mapping[str, Any]) -> Row:
        """Measures a mode at a length."""
        short = sizes | {self.unit: self.shortest}
        return limited(self.name, prepare, self.contenders, sizes, short, settings, ROUNDS)

    def tables(self, result: Result, learned: Callable[[Any], str]) -> str:
        """The result as Markdown.

        Args:
            result: of :meth:`result`.
            learned: the table of what was learned in equal time.
        """
        parameters = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in result.details["parameters"].items())
        lines = [f"Parameters: {parameters}."]
        rivals = self.contenders[1:]
        for mode in dict.fromkeys(row.sizes["mode"] for row in result.rows):
            rows = [row for row in result.rows if row.sizes["mode"] == mode]
            title = "Inference" if mode == "inference" else "Training step"
            dtype = rows[0].sizes["dtype"]
            lines.append(f"{title}, {self.what}, {dtype}: milliseconds, and peak MiB beyond weights")
            head = [self.column, *self.contenders, *(f"{name} / hierarchy" for name in rivals)]
            head += [self.rate, *(f"{name}, MiB" for name in self.contenders)]
            lines.append(markdown(head, [self.cells(row) for row in rows]))
        if accuracy := result.details.get("accuracy"):
            lines.append(learned(accuracy))
        return "\n\n".join(lines)

    def cells(self, row: Row) -> list[str]:
        """A row of a table."""
        hierarchy, length = row.contenders[self.contenders[0]].seconds, row.sizes[self.unit]
        return [
            f"{length:g}",
            *(milliseconds(row.contenders[name]) for name in self.contenders),
            *(times(row.ratios.get(f"{name}/hierarchy seconds")) or "-" for name in self.contenders[1:]),
            f"{float(length) / hierarchy:,.0f}" if hierarchy else "-",
            *(mebibytes(row.contenders[name].bytes) or "-" for name in self.contenders),
        ]


def budgets(options: argparse.ArgumentParser, minutes: float) -> argparse.ArgumentParser:
    """A command line with how long is measured and trained."""
    options.add_argument("--budget", type=float, default=10.0, help="seconds of timing a row; a round at the least")
    options.add_argument("--limit", type=float, default=120.0, help="seconds that a contender's call may compute")
    options.add_argument("--minutes", type=float, default=minutes, help="of computing that each contender is trained")
    options.add_argument("--no-accuracy", dest="accuracy", action="store_false", help="train nothing")
    return options
