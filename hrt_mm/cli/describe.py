"""``hrt-mm describe``: what a configuration costs, level by level."""

from __future__ import annotations

import argparse

from .arguments import Commands, add_config, command


def add(commands: Commands) -> None:
    """Adds the command."""
    text = "print tokens, parameters, FLOPs and memory a level, beside those of a flat transformer"
    parser = command(commands, "describe", text, run)
    add_config(parser)
    parser.add_argument(
        "--shape",
        type=_shape,
        help="tokens of a sample along each axis: 4096, or 32x32 for images; those of a typical sample when absent",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    from ..analysis.describe import describe
    from ..config import load_config

    print(describe(load_config(args.config, args.overrides), args.shape))
    return 0


def _shape(text: str) -> tuple[int, ...]:
    """Sizes from ``32x32``."""
    try:
        return tuple(int(part) for part in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; write 4096 or 32x32") from None
