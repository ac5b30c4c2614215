"""Every module imports with the core's dependencies alone, and the core imports no modality."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

import hrt_mm

ROOT = Path(hrt_mm.__file__).parent
OPTIONAL = {"decord", "faiss", "flash_attn", "gradio", "tensorboard"}
"""Blocked as well: installed by default, or with an extra, but nothing may need them to be imported."""

IMPORT_ALL = """
import importlib, json, pkgutil, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"{name} is not one of the core's dependencies", name=name)

blocked, loaded = set(json.loads(sys.argv[1])), {}
sys.meta_path.insert(0, Block())
for package in ("hrt_mm", "hrt_modalities"):
    for module in pkgutil.walk_packages([importlib.import_module(package).__path__[0]], f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    loaded[package] = sorted(sys.modules)
print(json.dumps(loaded))
"""


def core_distributions() -> set[str]:
    """The distributions that an installation without extras brings, as they are named in their metadata."""
    found: set[str] = set()
    waiting = ["hrt-mm"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue
        found.add(name)
        waiting += [
            _normal(re.split(r"[ ;<>=!~\[(]", line, maxsplit=1)[0]) for line in needed if "extra ==" not in line
        ]
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """What is loaded once all modules of ``hrt_mm`` are imported, and then those of ``modalities``, by a process that
    has the core's dependencies alone."""
    core = core_distributions()
    assert {"torch", "pydantic", "timm"} <= core
    blocked = {
        module for module, owners in packages_distributions().items() if not core & {_normal(owner) for owner in owners}
    }
    assert "pytest" in blocked
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps(sorted(blocked | OPTIONAL))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {package: set(names) for package, names in json.loads(done.stdout.splitlines()[-1]).items()}


def test_every_module_imports_with_the_dependencies_of_the_core_alone(loaded: dict[str, set[str]]) -> None:
    assert {"hrt_mm.cli.main", "hrt_mm.train.loop", "hrt_modalities.vision"} <= loaded["hrt_modalities"]


def test_the_core_loads_no_modality(loaded: dict[str, set[str]]) -> None:
    assert "hrt_mm.config.root" in loaded["hrt_mm"]
    assert not {name for name in loaded["hrt_mm"] if name.partition(".")[0] == "hrt_modalities"}
