"""Commands of groups that modalities may share (``hrt-mm GROUP NAME``), and those that they add as ``hrt-mm NAME``."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError
from ..modality import Command, modalities
from .arguments import Commands, command
from .data import SHOW


def wanted(argv: Sequence[str], commands: Commands) -> bool:
    """Whether a command line may need them. They are not looked up otherwise, as that loads all modalities."""
    return bool(argv) and (argv[0] in ("-h", "--help") or not (argv[0].startswith("-") or argv[0] in commands.choices))


def add(commands: Commands) -> None:
    """Adds the commands of all installed modalities.

    Raises:
        ConfigError: a modality cannot be loaded, or the names of two commands clash.
    """
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
        for own in modality.commands():
            group, _, name = own.name.partition(" ")
            others = groups.get(group, {})
            if group in commands.choices or name in others or (others and "" in (name, *others)):
                raise ConfigError(
                    f"the modality {modality.name!r} adds a command {own.name!r}, and there is one already"
                )
            groups.setdefault(group, {})[name] = own
    return groups
