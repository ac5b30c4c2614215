"""``hrt-mm eval``: evaluates the best weights of a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .arguments import Commands, add_overrides, command


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "eval", "evaluate the best weights of a run", run)
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder")
    add_overrides(parser)
    parser.add_argument("--split", default="test", help="train, val or test (test)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the metrics."""
    from ..inference.trained import evaluate_run

    metrics = evaluate_run(args.folder, args.split, args.overrides)
    if args.json:
        print(json.dumps(metrics, indent=2))
    else:
        width = max(map(len, metrics), default=0)
        print("\n".join(f"{name:<{width}}  {value:.4f}" for name, value in metrics.items()))
    return 0
