"""``hrt-mm checkpoint``: converts checkpoints."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..core.errors import ConfigError
from ..data.registry import Command


def _convert_arguments(parser: ArgumentParser) -> None:
    text = "run folder, all of whose checkpoints are converted, or the folder of one: RUN/checkpoints/step-00001000"
    parser.add_argument("source", metavar="RUN", type=Path, help=text)
    parser.add_argument(
        "--to", choices=("single", "sharded"), required=True, help="a file for each part, or a file for each shard"
    )
    parser.add_argument("--shards", type=int, metavar="N", help="number of shards, with --to sharded (2)")


def _convert(args: Namespace) -> int:
    """Converts, and prints the checkpoints."""
    from ..train.convert import convert

    if args.shards is not None and (args.to == "single" or args.shards < 1):
        raise ConfigError(f"--shards {args.shards}: give 1 or more with --to sharded, or drop it")
    converted = convert(args.source, 0 if args.to == "single" else args.shards or 2)
    for folder in converted:
        print(f"{folder}: {args.to}")
    if not converted:
        print(f"{args.source}: {args.to} already")
    return 0


CONVERT = Command(
    "checkpoint convert",
    "convert checkpoints in place, to a file for each part or to shards",
    _convert_arguments,
    _convert,
)
