"""``hrt-mm diagnose``: the pictures of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Commands, add_overrides, command


def add(commands: Commands) -> None:
    """Adds the command."""
    text = "draw a run: curves, groups, attention, gates, recovery, confusion"
    parser = command(commands, "diagnose", text, run)
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the report, and prints its summary and where it is."""
    from ..analysis.report import diagnose

    report = diagnose(args.folder, args.overrides)
    print("\n".join([*report.summary, f"report: {report.folder / 'report.md'}"]))
    return 0
