"""The command ``hrt-mm``: finds the subcommand, runs it, and tells mistakes in one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import added, config, describe, diagnose, doctor, embed, evaluate, generate, index, modalities, search, train
from .arguments import HelpParser, with_texts_joined
from .process import as_process, printable_output

COMMANDS = (train, evaluate, generate, embed, index, search, describe, diagnose, doctor, config, modalities)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        argv: the arguments; those of the process when absent.

    Returns:
        0, or 2 after a mistake of the user's, 130 after Ctrl-C, 143 after SIGTERM.
    """
    printable_output()
    args = parse(argv)
    return as_process(lambda: args.run(args), mistakes=(ValueError, OSError), traceback=args.traceback)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a command line, with overrides accepted after options too."""
    about = "Multimodal hierarchies: train from YAML, evaluate, look inside."
    parser = HelpParser(prog="hrt-mm", description=about, lists_installed=True)
    parser.add_argument("--version", action="version", version=f"hrt-mm {version('hrt-mm')}")
    parser.set_defaults(traceback=False)
    commands: Any = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    argv = sys.argv[1:] if argv is None else argv
    if added.wanted(argv, commands):
        added.add(commands)
    if argv and argv[0] in commands.choices:
        known = commands.choices[argv[0]]._option_string_actions
        argv = with_texts_joined(argv, known.__contains__)
    args, rest = parser.parse_known_args(argv)
    # argparse fills a list of positionals once, before the options; the overrides after them are left over.
    if rest and (any(item.startswith("-") for item in rest) or not hasattr(args, "overrides")):
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    for name, value in vars(args).items():
        # The shell leaves --out=~/x as it is.
        setattr(args, name, _at_home(value))
    return args


def _at_home(value: Any) -> Any:
    """A path, or a list of them, with ``~`` replaced by the home folder; other values as they are."""
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value
