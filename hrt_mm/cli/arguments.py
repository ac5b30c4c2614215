"""What the commands' parsers have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

Run = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class HelpParser(argparse.ArgumentParser):
    """A parser of a command, or of all: the help of all ends with what is installed, looked up when it is asked for."""

    def __init__(self, *, lists_installed: bool = False, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.lists_installed = lists_installed

    def format_help(self) -> str:
        if self.lists_installed:
            from .installed import listing

            self.epilog = listing()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            option = message.removeprefix("argument ").partition(":")[0].rpartition("/")[2]
            message += f"; a value that begins with - is written with an equals sign: {option}=-1"
        super().error(message)


TEXTS = ("--text", "--prompt", "--stop")
"""Options whose value may be any text, also one that begins with a dash."""


def with_texts_joined(argv: Sequence[str], known: Callable[[str], bool]) -> list[str]:
    """A command line in which ``--text -foo`` is ``--text=-foo``: argparse would take the text for an option.

    Args:
        argv: the arguments.
        known: whether a word is an option of the command.
    """
    found: list[str] = []
    words = iter(argv)
    for word in words:
        if word in TEXTS and (value := next(words, None)) is not None:
            dashed = value.startswith("-") and not known(value.partition("=")[0])
            found += [f"{word}={value}"] if dashed else [word, value]
        else:
            found.append(word)
    return found


def command(commands: Commands, name: str, help: str, run: Run) -> argparse.ArgumentParser:
    """A subcommand's parser, with the options that all of them have."""
    parser = commands.add_parser(name, help=help, description=help)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error arose")
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """The arguments CONFIG and overrides."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or a packaged name such as vision/digits")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """The overrides, each a dotted key and a value."""
    parser.add_argument(
        "overrides",
        metavar="a.b=c",
        nargs="*",
        # Without a default argparse lists it among the arguments that are required.
        default=[],
        help="override a key: optim.lr=1e-3, model.levels.patches.dim=64",
    )
