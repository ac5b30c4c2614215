"""``hrt-mm modalities``: lists installed modalities, datasets, tasks and poolings."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from importlib.metadata import entry_points

from ..data.entry_points import MODALITIES
from .arguments import Commands, command


def add(commands: Commands) -> None:
    """Adds the command."""
    command(commands, "modalities", "list installed modalities with their datasets, tasks and poolings", run)


def run(args: argparse.Namespace) -> int:
    """Prints the list."""
    print(table())
    return 0


def listing() -> str:
    """A short list for the end of the help of ``hrt-mm``, which imports no plug-in."""
    from ..config.packaged import packaged_configs

    names = sorted({entry.name for entry in entry_points(group=MODALITIES)})
    return "\n".join(
        [
            "installed:",
            f"  modalities: {', '.join(names)}; `hrt-mm modalities` lists their datasets, tasks and poolings",
            f"  configurations: {', '.join(packaged_configs())}",
        ]
    )


def table() -> str:
    """All plug-ins with a one-line summary."""
    from ..config.sections import datasets, tasks
    from ..core.pooling import POOLINGS
    from ..data.registry import broken_plugins, missing_libraries, modalities

    lines = []
    for name, modality in modalities().items():
        lines.append(f"{name} ({_origin(name)}): {_summary(modality.tokenizer)}")
        lines += [f"  {missing}" for missing in [missing_libraries(name)] if missing]
        lines += _rows("data", datasets(name))
    lines += [str(broken) for broken in broken_plugins().values()]
    lines.append("tasks, for every modality")
    lines += _rows("task", tasks())
    lines.append("poolings, for every modality")
    lines += _rows("pool", dict(sorted(POOLINGS.items())))
    return "\n".join(lines)


def _rows(section: str, components: Mapping[str, type[object]]) -> list[str]:
    return [f"  {section} {name:<16} {_summary(component)}" for name, component in components.items()]


def _summary(component: type[object]) -> str:
    line = (component.__doc__ or "").strip().partition("\n")[0]
    return re.sub(r"(:\w+:)?`+([^`]*)`+", r"\2", line)


def _origin(name: str) -> str:
    """The distribution that provides a modality, and its version."""
    for entry in entry_points(group=MODALITIES, name=name):
        if entry.dist:
            return f"{entry.dist.name} {entry.dist.version}"
    return "no distribution"
