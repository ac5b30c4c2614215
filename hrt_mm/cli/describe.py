"""``hrt-mm describe``: what a configuration costs, level by level."""

from __future__ import annotations

import argparse

from .arguments import Commands, add_config, command


def add(commands: Commands) -> None:
    """Adds the command."""
    text = "print tokens, parameters, FLOPs and memory a level, beside those of a flat transformer"
    add_config(command(commands, "describe", text, run))


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    from ..config import load_config
    from ..describe import describe

    print(describe(load_config(args.config, args.overrides)))
    return 0
