"""The command ``hrt-mm``: finds the subcommand, runs it, and tells mistakes in one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ..errors import ConfigError, UserError
from . import added, config, describe, diagnose, doctor, embed, evaluate, generate, index, modalities, search, train
from .arguments import HelpParser

COMMANDS = (train, evaluate, generate, embed, index, search, describe, diagnose, doctor, config, modalities)
USER_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        argv: the arguments; those of the process when absent.

    Returns:
        0, or 2 after a mistake of the user's, 130 after Ctrl-C.
    """
    args = parse(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has what it wants; Python must not complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        if args.traceback:
            raise
        hint = "" if isinstance(error, UserError) else " (--traceback shows where)"
        print(f"error: {error}{hint}", file=sys.stderr)
        return USER_ERROR


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a command line, with overrides accepted after options too."""
    parser = HelpParser(prog="hrt-mm", description="Multimodal hierarchies: train from YAML, evaluate, look inside.")
    parser.add_argument("--version", action="version", version=f"hrt-mm {version('hrt-mm')}")
    parser.set_defaults(traceback=False)
    commands: Any = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    argv = sys.argv[1:] if argv is None else argv
    if added.wanted(argv, commands):
        try:
            added.add(commands)
        except ConfigError as error:
            # The help tells it at its end.
            if not argv[0].startswith("-"):
                parser.error(str(error))
    args, rest = parser.parse_known_args(argv)
    # argparse fills a list of positionals once, before the options; the overrides after them are left over.
    if rest and (any(item.startswith("-") for item in rest) or not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args
