"""Commands of groups that modalities may share (``hrt-mm GROUP NAME``), and those that they add as ``hrt-mm NAME``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from ..modality import Command, Modality, modalities
from .arguments import Commands, command
from .data import SHOW

log = logging.getLogger(__name__)


def wanted(argv: Sequence[str], commands: Commands) -> bool:
    """Whether a command line may need them. They are not looked up otherwise, as that loads all modalities."""
    return bool(argv) and (argv[0] in ("-h", "--help") or not (argv[0].startswith("-") or argv[0] in commands.choices))


def add(commands: Commands) -> None:
    """Adds the commands of all installed modalities, without those that clash with others or fail."""
    for group, members in _grouped(commands).items():
        if "" in members:
            own = members[""]
            own.arguments(command(commands, group, own.help, own.run))
            continue
        text = ", ".join(members)
        parser = commands.add_parser(group, help=text, description=text)
        actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
        for name, own in members.items():
            own.arguments(command(actions, name, own.help, own.run))


def _grouped(commands: Commands) -> dict[str, dict[str, Command]]:
    groups = {"data": {"show": SHOW}}
    for modality in modalities().values():
        for own in _commands(modality):
            group, _, name = own.name.partition(" ")
            others = groups.get(group, {})
            if group in commands.choices or name in others or (others and "" in (name, *others)):
                log.warning(
                    "the modality %r adds a command %r, and there is one already; it is left out",
                    modality.name, own.name,
                )  # fmt: skip
                continue
            groups.setdefault(group, {})[name] = own
    return groups


def _commands(modality: type[Modality]) -> list[Command]:
    """The commands of a modality whose arguments can be added."""
    try:
        found = list(modality.commands())
        for own in found:
            own.arguments(argparse.ArgumentParser())
    except Exception as error:
        log.warning("the commands of the modality %r cannot be used: %r", modality.name, error)
        return []
    return found
