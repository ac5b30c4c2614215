"""``hrt-mm sweep``."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Commands, add_overrides, command


def add(commands: Commands) -> None:
    """Adds ``hrt-mm sweep``."""
    parser = command(commands, "sweep", "train over a grid of settings, with seeds repeated, and compare", sweep)
    parser.add_argument("file", metavar="FILE", type=Path, help="YAML with config, grid or space, and seeds")
    add_overrides(parser)
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="folder of the runs and tables (runs/NAME of the file); resumed if there",
    )


def sweep(args: argparse.Namespace) -> int:
    """Trains what is missing, and prints the table."""
    from ..analysis.sweep import Sweep

    folder = args.dir or Path("runs") / args.file.stem
    prepared = Sweep(args.file, folder, args.overrides)
    prepared.run()
    print(f"{prepared.table()}\n{folder}/results.csv")
    return 0
