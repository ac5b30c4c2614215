"""``hrt-mm diagnose``: the pictures of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Commands, command


def add(commands: Commands) -> None:
    """Adds the command."""
    text = "draw a run: curves, groups, attention, gates, recovery, confusion"
    parser = command(commands, "diagnose", text, run)
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder")


def run(args: argparse.Namespace) -> int:
    """Writes the report and prints where it is."""
    from ..report import write_report

    print(f"report: {write_report(args.folder)}")
    return 0
