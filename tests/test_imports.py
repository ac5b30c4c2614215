"""Every module imports with the core's libraries alone, and the core imports no modality."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from hrt_mm.core.extras import extras, libraries
from tests.light import Light, blocked, installed

IMPORT_ALL = """
import importlib, json, pkgutil, sys

loaded = {}
for package in ("hrt_mm", "hrt_modalities"):
    for module in pkgutil.walk_packages([importlib.import_module(package).__path__[0]], f"{package}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    loaded[package] = sorted(sys.modules)
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def light() -> Iterator[Light]:
    """Processes with the core's libraries alone, and those of extras that are asked for."""
    with Light() as light:
        yield light


@pytest.fixture(scope="module")
def loaded(light: Light, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What is loaded once all modules of ``hrt_mm`` are imported, and then those of ``hrt_modalities``, by a process
    that has the core's libraries alone."""
    out = light.run(IMPORT_ALL, [], [], tmp_path_factory.mktemp("imports"))
    return {package: set(names) for package, names in json.loads(out.splitlines()[-1]).items()}


def test_a_light_installation_has_the_libraries_of_the_core_alone() -> None:
    core = {"einops", "numpy", "pydantic", "pyyaml", "rich", "safetensors", "torch"}
    assert core <= installed()
    assert {"PIL", "av", "icu4py", "matplotlib", "pytest", "scipy", "sklearn", "timm", "torchaudio"} <= blocked()
    for extra in extras():
        assert not (core - {"torch"}) & set(libraries(extra))


def test_every_module_imports_with_the_libraries_of_the_core_alone(loaded: dict[str, set[str]]) -> None:
    assert {"hrt_mm.cli.main", "hrt_mm.train.loop", "hrt_modalities.vision"} <= loaded["hrt_modalities"]


def test_the_core_loads_no_modality(loaded: dict[str, set[str]]) -> None:
    assert "hrt_mm.config.root" in loaded["hrt_mm"]
    assert not {name for name in loaded["hrt_mm"] if name.partition(".")[0] == "hrt_modalities"}
