"""Processes that see a light installation: what an extra does not bring cannot be imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from hrt_mm.core.extras import libraries, normal_name

ROOT = Path(__file__).parents[1]
DISTRIBUTION = "hrt-mm"

_BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}: it is blocked", name=name)

sys.meta_path.insert(0, Block())
"""


@cache
def installed(*extras: str) -> frozenset[str]:
    """The distributions that an installation with some extras brings."""
    names: set[str] = set()
    waiting = [DISTRIBUTION, *(name for extra in extras for name in libraries(extra))]
    while waiting:
        name = normal_name(waiting.pop())
        if name in names:
            continue
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        names.add(name)
        waiting += [re.split(r"[ ;<>=!~\[(]", line, maxsplit=1)[0] for line in lines if "extra ==" not in line]
    return frozenset(names)


@cache
def blocked(*extras: str) -> frozenset[str]:
    """The top-level modules that an installation with some extras does not have, of those that are here."""
    allowed = installed(*extras)
    return frozenset(
        module
        for module, owners in metadata.packages_distributions().items()
        if not allowed & {normal_name(owner) for owner in owners}
    )


def run_light(code: str, *arguments: str, extras: tuple[str, ...] = (), cwd: Path = ROOT) -> str:
    """Runs a program where only the core's libraries and those of some extras can be imported.

    Args:
        code: the program.
        arguments: of the program.
        extras: of ``hrt-mm``.
        cwd: the folder it runs in.

    Returns:
        What it printed; errors go to the assertion.
    """
    program = f"BLOCKED = frozenset({json.dumps(sorted(blocked(*extras)))}){_BLOCK}{code}"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
