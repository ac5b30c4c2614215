"""``hrt-mm train`` and ``hrt-mm eval``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..core.errors import UserError
from .arguments import Commands, add_config, add_overrides, add_run, command


def add_train(commands: Commands) -> None:
    """Adds ``hrt-mm train``."""
    parser = command(commands, "train", "train a model from a configuration", train)
    add_config(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in the run folder")
    parser.add_argument(
        "--profile",
        type=int,
        nargs="?",
        const=5,
        metavar="STEPS",
        help="profile some steps (5): a trace, and tables of where the time goes, in the folder profile of the run",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="load the data, run a batch of each split through the model, check the run folder, and exit",
    )


def train(args: argparse.Namespace) -> int:
    """Trains, or prints what would prevent it."""
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
    from ..train import loop
    from ..train.callbacks import Callback

    callbacks: list[Callback] = []
    if args.profile is not None:
        from ..train.profiling import Profiler

        if args.profile < 1:
            raise UserError(f"--profile {args.profile}: give 1 step or more")
        callbacks.append(Profiler(args.profile))
    loop.train(config, resume=args.resume, callbacks=callbacks)
    return 0


def add_eval(commands: Commands) -> None:
    """Adds ``hrt-mm eval``."""
    parser = command(commands, "eval", "evaluate the best weights of a run", evaluate)
    add_run(parser)
    add_overrides(parser)
    parser.add_argument("--split", default="test", help="train, val or test (test)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write sample, true label, prediction and scores of each sample: .csv, .jsonl, .parquet or .txt",
    )


def evaluate(args: argparse.Namespace) -> int:
    """Prints the metrics, and writes the predictions if a file is named."""
    from ..inference.trained import evaluate_run

    if args.predictions is not None:
        from ..inference.predict import write_split

        # Before the metrics, which take as long: the file or the task may be refused.
        count = write_split(args.folder, args.split, args.predictions, args.overrides)
        print(f"{args.predictions}: {count:,} predictions", file=sys.stderr)
    metrics = evaluate_run(args.folder, args.split, args.overrides)
    if args.json:
        print(json.dumps(metrics, indent=2))
    else:
        width = max(map(len, metrics), default=0)
        print("\n".join(f"{name:<{width}}  {value:.4f}" for name, value in metrics.items()))
    return 0
