"""``hrt-mm modalities``: what is installed."""

from __future__ import annotations

import argparse

from .arguments import Commands, command


def add(commands: Commands) -> None:
    """Adds the command."""
    command(commands, "modalities", "list installed modalities with their datasets, tasks and poolings", run)


def run(args: argparse.Namespace) -> int:
    """Prints the list."""
    from .installed import table

    print(table())
    return 0
