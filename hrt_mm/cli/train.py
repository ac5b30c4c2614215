"""``hrt-mm train``: trains a configuration."""

from __future__ import annotations

import argparse
import sys

from .arguments import Commands, add_config, command


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "train", "train a configuration into a run folder", run)
    add_config(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the run folder's newest checkpoint")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="open the data, take a batch of each split through the model, look at the run folder, and end",
    )


def run(args: argparse.Namespace) -> int:
    """Trains, or says what a run would refuse."""
    from ..config import load_config
    from ..train.check import check

    config = load_config(args.config, args.overrides)
    if args.dry_run:
        from ..train.folder import check_folder
        from ..train.rehearsal import rehearse, warnings_of
        from ..train.splits import start_warnings

        check(config)
        check_folder(config, resume=args.resume)
        samples = rehearse(config)
        for warning in [*warnings_of(config), *start_warnings(config.data)]:
            print(f"warning: {warning}", file=sys.stderr)
        print(f"{args.config}: ok ({samples} samples; nothing was trained)")
        return 0
    from ..train.loop import train

    train(config, resume=args.resume)
    return 0
