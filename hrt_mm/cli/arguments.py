"""What the commands' parsers have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, TypeAlias

Run = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class HelpParser(argparse.ArgumentParser):
    """A parser whose help ends with what is installed. That is looked up only when the help is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def format_help(self) -> str:
        from .installed import listing

        self.epilog = listing()
        return super().format_help()


def command(commands: Commands, name: str, help: str, run: Run) -> argparse.ArgumentParser:
    """A subcommand's parser, with the options that all of them have."""
    parser = commands.add_parser(name, help=help, description=help)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    parser.set_defaults(run=run)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """The arguments CONFIG and overrides."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or a packaged name such as vision/digits")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """The overrides, each a dotted key and a value."""
    parser.add_argument(
        "overrides", metavar="a.b=c", nargs="*", help="override a key: optim.lr=1e-3, model.levels.patches.dim=64"
    )
