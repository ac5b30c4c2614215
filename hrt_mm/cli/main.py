"""The command ``hrt-mm``: parses the command line and runs a subcommand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import (
    added,
    analysis,
    completion,
    config,
    embed,
    export,
    generate,
    index,
    mine,
    modalities,
    predict,
    search,
    serve,
    sweep,
    train,
)
from .arguments import HelpParser, join_text_options
from .process import as_process, printable_output

COMMANDS = (
    train.add_train,
    train.add_eval,
    sweep.add,
    predict.add,
    generate.add,
    embed.add,
    export.add,
    index.add,
    search.add,
    mine.add,
    serve.add,
    analysis.add_describe,
    analysis.add_diagnose,
    analysis.add_doctor,
    config.add,
    modalities.add,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        argv: the arguments; those of the process if absent.

    Returns:
        The exit code: 0, 2 after a user error, 130 after Ctrl-C, 143 after SIGTERM, 138 after SIGUSR1.
    """
    printable_output()
    args = parse(argv)
    return as_process(lambda: args.run(args), mistakes=(ValueError, OSError), traceback=args.traceback)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line. Overrides and files may also follow options."""
    parser, commands = _parser()
    argv = sys.argv[1:] if argv is None else argv
    if added.needed(argv, commands):
        added.add(commands)
    elif argv and argv[0] in ("-h", "--help"):
        added.add_names(commands)
    if argv and argv[0] in commands.choices:
        options = commands.choices[argv[0]]._option_string_actions
        argv = join_text_options(argv, options.__contains__)
    args, rest = parser.parse_known_args(argv)
    # argparse fills a list of positionals only once, before the options. Those after them are left over.
    late = next((name for name in ("overrides", "files") if hasattr(args, name)), None)
    if rest and (late is None or any(item.startswith("-") for item in rest)):
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest and late is not None:
        setattr(args, late, [*getattr(args, late), *(map(Path, rest) if late == "files" else rest)])
    if isinstance(getattr(args, "split", None), str):
        # Imported here: a command that reads no data starts faster without it.
        from ..data.splits import split_name

        # Every command takes the names that folders and tables may have, such as dev; others are left to the data.
        args.split = split_name(args.split) or args.split
    for name, value in vars(args).items():
        # The shell does not expand --out=~/x.
        setattr(args, name, _expand_home(value))
    return args


def _parser() -> tuple[HelpParser, Any]:
    """The parser, and its commands without those of plug-ins."""
    about = "Hierarchical transformers for text, images, audio and video."
    parser = HelpParser(prog="hrt-mm", description=about, closing=modalities.listing)
    parser.add_argument("--version", action="version", version=f"hrt-mm {version('hrt-mm')}")
    parser.set_defaults(traceback=False)
    commands: Any = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_command in COMMANDS:
        add_command(commands)
    completion.add(commands, _complete_parser)
    return parser, commands


def _complete_parser() -> HelpParser:
    parser, commands = _parser()
    added.add(commands)
    # Completion shows one line for each command; the list of configurations would import all plug-ins for each.
    parser.closing = None
    return parser


def _expand_home(value: Any) -> Any:
    """Expands ``~`` in a path or in a list of paths. Other values are returned unchanged."""
    if isinstance(value, list):
        return [_expand_home(item) for item in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value
