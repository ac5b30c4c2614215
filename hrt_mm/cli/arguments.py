"""Argument parsers and options shared by the commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

Run = Callable[[argparse.Namespace], int]
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class HelpParser(argparse.ArgumentParser):
    """The parser of ``hrt-mm`` or a command.

    Args:
        closing: the text after the help. It is called only when help is printed, as it may import plug-ins.
        options: of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, *, closing: Callable[[], str] | None = None, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.closing = closing

    def format_help(self) -> str:
        if self.closing:
            self.epilog = self.closing()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):
            option = message.removeprefix("argument ").partition(":")[0].rpartition("/")[2]
            message += f"; a value that begins with - is written with an equals sign: {option}=-1"
        super().error(message)


TEXTS = ("--text", "--minus", "--prompt", "--stop")
"""Options whose value may be any text, including one that starts with a dash."""


def join_text_options(argv: Sequence[str], is_option: Callable[[str], bool]) -> list[str]:
    """Replaces ``--text -foo`` by ``--text=-foo``, as argparse would mistake the text for an option.

    Args:
        argv: the arguments.
        is_option: whether a word is an option of the command.
    """
    joined: list[str] = []
    words = iter(argv)
    for word in words:
        if word in TEXTS and (value := next(words, None)) is not None:
            dashed = value.startswith("-") and not is_option(value.partition("=")[0])
            joined += [f"{word}={value}"] if dashed else [word, value]
        else:
            joined.append(word)
    return joined


def command(commands: Commands, name: str, help: str, run: Run) -> argparse.ArgumentParser:
    """Adds a subcommand with the options that all of them have."""
    parser = commands.add_parser(name, help=help, description=help)
    parser.add_argument("--traceback", action="store_true", help="print the full traceback of an error")
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments CONFIG and overrides."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or a packaged name such as vision/digits")
    add_overrides(parser)


def add_run(parser: argparse.ArgumentParser, of: str = "") -> None:
    """Adds the argument RUN.

    Args:
        parser: of the command.
        of: what is said of the run in the help.
    """
    text = f"run folder{of}, or hub:owner/name, a repository of the Hugging Face Hub"
    parser.add_argument("folder", metavar="RUN", type=Path, help=text)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Adds the overrides."""
    parser.add_argument(
        "overrides",
        metavar="a.b=c",
        nargs="*",
        # Without a default, argparse lists it as a required argument.
        default=[],
        help="override configuration keys: optim.lr=1e-3, model.levels.patches.dim=64",
    )
