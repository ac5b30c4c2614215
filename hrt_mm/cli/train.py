"""``hrt-mm train``: trains a configuration."""

from __future__ import annotations

import argparse

from .arguments import Commands, add_config, command


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "train", "train a configuration into a run folder", run)
    add_config(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the run folder's newest checkpoint")


def run(args: argparse.Namespace) -> int:
    """Trains."""
    from ..config import load_config
    from ..train.loop import train

    train(load_config(args.config, args.overrides), resume=args.resume)
    return 0
