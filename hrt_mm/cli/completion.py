"""``hrt-mm completion``: completion of commands and options in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..core.extras import needs_extra
from .arguments import Commands, command


def add(commands: Commands, parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Adds ``hrt-mm completion``.

    Args:
        commands: to add to.
        parser: makes the parser with all commands, those of plug-ins too.
    """
    this = command(commands, "completion", 'print the completion of a shell: eval "$(hrt-mm completion bash)"', _print)
    this.add_argument("shell", choices=("bash", "zsh"), help="the shell")
    this.set_defaults(make_parser=parser)


def _print(args: argparse.Namespace) -> int:
    with needs_extra("completion", "hrt-mm completion"):
        import shtab

    print(shtab.complete(args.make_parser(), args.shell))
    return 0
