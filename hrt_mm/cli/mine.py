"""``hrt-mm mine``: hard negatives for another training."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Commands, add_run, command


def add(commands: Commands) -> None:
    """Adds the command."""
    text = "write the wrong answers that a run ranks highest, as hard negatives for training (task.negatives)"
    parser = command(commands, "mine", text, run)
    add_run(parser, " of a contrastive task")
    parser.add_argument("--split", default="train", help="split of the run's data (train)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="table to write, TSV")
    parser.add_argument(
        "--count", type=int, default=4, metavar="N", help="maximum negatives of a sample in each direction (4)"
    )
    parser.add_argument("--candidates", type=int, default=50, metavar="N", help="answers to look at per query (50)")
    parser.add_argument(
        "--margin",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="negatives score less than this share of the right answer's score, as others may be right too (0.95)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the table, and prints its size."""
    from ..core.errors import UserError
    from ..retrieval.embed import Embedder
    from ..retrieval.mining import mine

    if args.out.suffix != ".tsv":
        raise UserError(f"--out {args.out}: the table is TSV; let its name end in .tsv")
    options = {"count": args.count, "candidates": args.candidates}
    total = mine(Embedder.of(args.folder), args.split, args.out, margin=args.margin, **options)
    print(f"{args.out}: {total:,} negatives")
    return 0
