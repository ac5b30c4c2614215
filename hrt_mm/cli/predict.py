"""``hrt-mm predict``: applies a trained run to files, folders, tables or lines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import Commands, add_run, command

if TYPE_CHECKING:
    from ..inference.inputs import Input
    from ..inference.trained import TrainedRun

STDIN = Path("-")


def add(commands: Commands) -> None:
    """Adds the command."""
    parser = command(commands, "predict", "predict labels, spans or transcripts of files, tables or lines", run)
    add_run(parser, " of a task that predicts labels")
    parser.add_argument(
        "files",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="files, folders, patterns in quotes such as 'films/**/*.mp4', tables (CSV, TSV, JSONL or Parquet), or - "
        "for lines of standard input: a path each, or a text for models of text",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where it goes; to standard output when absent")
    parser.add_argument("--format", help="text, csv, jsonl or parquet; by default by the suffix of --out, or text")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="NAME",
        help="column of the tables with the texts (text) or paths (path); for several towers TOWER=NAME for each",
    )
    parser.add_argument("--id-column", metavar="NAME", help="column of the tables with unique names (id, or the path)")
    parser.add_argument(
        "--root", metavar="FOLDER", type=Path, help="folder that paths in tables are relative to (the table's folder)"
    )
    parser.add_argument("--tower", help="tower that reads the files, for models of several")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="classes whose scores are written (5)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="samples a batch (that of the run)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read and decode files (0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), help="of the computations (that of the run)")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint by its step; the best when absent")
    parser.add_argument(
        "--explain",
        choices=("gradient", "attention"),
        help="attribute classes to parts of each level: boxes of pictures, times, or words",
    )
    parser.add_argument(
        "--restart", action="store_true", help="discard what an interrupted job left, instead of continuing it"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the predictions."""
    from ..analysis.explain import Explainer
    from ..core.errors import UserError
    from ..inference.predict import prediction_job
    from ..inference.prediction_rows import format_of
    from ..inference.trained import load_run
    from ..train.distributed import device_named

    format_of(args.out, args.format)
    if args.restart and args.out is None:
        raise UserError("--restart is for a file, and none is written; name one with --out, or drop it")
    device = device_named(args.device)
    trained = load_run(args.folder, "best" if args.step is None else args.step).to(device)
    # Before the files are listed: the task may be refused.
    explain = Explainer(trained, args.explain) if args.explain is not None else None
    job = prediction_job(
        trained,
        _inputs(args, trained),
        batch_size=args.batch_size,
        top=args.top,
        workers=args.workers,
        precision=args.precision,
        explain=explain,
        identity={"explain": args.explain},
    )
    count = job.write(args.out, args.format, restart=args.restart)
    if args.out is not None:
        print(f"{args.out}: {count:,} predictions")
    return 0


def _inputs(args: argparse.Namespace, trained: TrainedRun) -> list[Input]:
    from ..core.errors import UserError
    from ..inference.sources import inputs_in, inputs_of_lines

    if STDIN not in args.files:
        return inputs_in(
            args.files,
            trained.readers,
            columns=args.column,
            tower=args.tower,
            id_column=args.id_column,
            root=args.root,
        )
    if len(args.files) > 1:
        raise UserError("- reads standard input, and files are given; give one of them")
    if args.column or args.id_column is not None or args.root is not None:
        raise UserError("--column, --id-column and --root are for tables, and standard input has lines; drop them")
    return inputs_of_lines(sys.stdin, trained.readers, args.tower)
