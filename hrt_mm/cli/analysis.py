"""``hrt-mm describe``, ``hrt-mm diagnose`` and ``hrt-mm doctor``."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import Commands, add_config, add_overrides, add_run, command


def add_describe(commands: Commands) -> None:
    """Adds ``hrt-mm describe``."""
    text = "print tokens, parameters, FLOPs and memory of each level, and of an equally large flat transformer"
    parser = command(commands, "describe", text, describe)
    add_config(parser)
    parser.add_argument(
        "--shape",
        type=_shape,
        help="tokens of a sample along each axis: 4096, or 32x32 for images; by default, those of a typical sample",
    )
    parser.add_argument("--tower", help="describe one of several towers; all by default")


def describe(args: argparse.Namespace) -> int:
    """Prints the table."""
    from ..analysis.describe import describe
    from ..config import load_config

    print(describe(load_config(args.config, args.overrides), args.shape, args.tower))
    return 0


def _shape(text: str) -> tuple[int, ...]:
    """Sizes from ``32x32``."""
    try:
        return tuple(int(size) for size in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a shape; write 4096 or 32x32") from None


def add_diagnose(commands: Commands) -> None:
    """Adds ``hrt-mm diagnose``."""
    text = "write a report on a run: curves, groups, attention, gates, recovery, confusion"
    parser = command(commands, "diagnose", text, diagnose)
    add_run(parser)
    add_overrides(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the report (RUN/report)")


def diagnose(args: argparse.Namespace) -> int:
    """Writes the report, and prints its summary and path."""
    from ..analysis.report import diagnose

    report = diagnose(args.folder, args.overrides, args.out)
    print("\n".join([*report.summary, f"report: {report.folder / 'report.md'}"]))
    return 0


def add_doctor(commands: Commands) -> None:
    """Adds ``hrt-mm doctor``."""
    text = "print devices, versions, and the attention backend for each precision"
    command(commands, "doctor", text, doctor)


def doctor(args: argparse.Namespace) -> int:
    """Prints the report."""
    from ..analysis.doctor import report

    print(report())
    return 0
