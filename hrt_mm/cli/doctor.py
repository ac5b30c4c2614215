"""``hrt-mm doctor``: what this machine can run."""

from __future__ import annotations

import argparse

from .arguments import Commands, command


def add(commands: Commands) -> None:
    """Adds the command."""
    command(commands, "doctor", "print devices, versions, and which attention backend serves what and why", run)


def run(args: argparse.Namespace) -> int:
    """Prints the report."""
    from ..analysis.doctor import report

    print(report())
    return 0
