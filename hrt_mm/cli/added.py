"""Commands of installed plug-ins: ``hrt-mm NAME``, or ``hrt-mm GROUP NAME``, where packages may share a group."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from ..data.entry_points import COMMANDS
from .arguments import Commands, command

if TYPE_CHECKING:
    from ..data.registry import Command

log = logging.getLogger(__name__)


def needed(argv: Sequence[str], parsers: Commands) -> bool:
    """Whether a command line may need plug-ins, which are imported only then."""
    return bool(argv) and not (argv[0].startswith("-") or argv[0] in parsers.choices)


def add_names(parsers: Commands) -> None:
    """Adds the names of the commands of plug-ins for the help of ``hrt-mm``, without importing them."""
    members: dict[str, list[str]] = {"checkpoint": ["convert"], "data": ["show"]}
    for entry in sorted(entry_points(group=COMMANDS), key=lambda entry: entry.name):
        group, _, name = entry.name.partition(".")
        members.setdefault(group, []).extend([name] if name else [])
    for group, names in sorted(members.items()):
        if group not in parsers.choices:
            parsers.add_parser(group, help=", ".join(names) or f"see `hrt-mm {group} --help`")


def add(parsers: Commands) -> None:
    """Adds the commands of plug-ins, except those that fail or clash with others."""
    for group, members in _grouped(parsers).items():
        if "" in members:
            plugin = members[""]
            plugin.arguments(command(parsers, group, plugin.help, plugin.run))
            continue
        text = ", ".join(members)
        parser = parsers.add_parser(group, help=text, description=text)
        actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
        for name, plugin in members.items():
            plugin.arguments(command(actions, name, plugin.help, plugin.run))


def _grouped(builtin: Commands) -> dict[str, dict[str, Command]]:
    from ..data.registry import commands
    from .checkpoint import CONVERT
    from .data import PACK, SHOW

    groups = {"checkpoint": {"convert": CONVERT}, "data": {"show": SHOW, "pack": PACK}}
    for registered, plugin in commands().items():
        group, _, name = plugin.name.partition(" ")
        others = groups.get(group, {})
        if group in builtin.choices or name in others or (others and "" in (name, *others)):
            log.warning(
                "the command %r, registered as %r, is there already; it is left out", plugin.name, registered
            )  # fmt: skip
            continue
        groups.setdefault(group, {})[name] = plugin
    return groups
