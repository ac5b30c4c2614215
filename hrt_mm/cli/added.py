"""Commands that packages add: ``hrt-mm NAME``, or ``hrt-mm GROUP NAME`` in groups that they may share."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..data.registry import Command, commands
from .arguments import Commands, command
from .data import SHOW

log = logging.getLogger(__name__)


def wanted(argv: Sequence[str], parsers: Commands) -> bool:
    """Whether a command line may need them. They are not looked up otherwise, as that loads their packages."""
    return bool(argv) and (argv[0] in ("-h", "--help") or not (argv[0].startswith("-") or argv[0] in parsers.choices))


def add(parsers: Commands) -> None:
    """Adds all installed commands, without those that clash with others or fail."""
    for group, members in _grouped(parsers).items():
        if "" in members:
            own = members[""]
            own.arguments(command(parsers, group, own.help, own.run))
            continue
        text = ", ".join(members)
        parser = parsers.add_parser(group, help=text, description=text)
        actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
        for name, own in members.items():
            own.arguments(command(actions, name, own.help, own.run))


def _grouped(taken: Commands) -> dict[str, dict[str, Command]]:
    groups = {"data": {"show": SHOW}}
    for registered, own in commands().items():
        group, _, name = own.name.partition(" ")
        others = groups.get(group, {})
        if group in taken.choices or name in others or (others and "" in (name, *others)):
            log.warning(
                "the command %r, registered as %r, is there already; it is left out", own.name, registered
            )  # fmt: skip
            continue
        groups.setdefault(group, {})[name] = own
    return groups
