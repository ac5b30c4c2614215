"""What ``import hrt_mm`` and its rooms give to users."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import hrt_mm

ROOMS = ("data", "config", "tasks", "train", "inference", "retrieval")
ORDERS = {
    "the name first": "from hrt_mm import train\nimport hrt_mm.train.loop",
    "the module first": "import hrt_mm.train.loop\nfrom hrt_mm import train",
    "the attribute first": "import hrt_mm\ntrain = hrt_mm.train\nimport hrt_mm.train.loop",
    "its function first": "from hrt_mm.train import train as function\nfrom hrt_mm import train",
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_the_core_alone() -> None:
    loaded = run("import sys, hrt_mm; print(*(name for name in sys.modules if name.startswith('hrt_mm.')))").split()
    assert {name.split(".")[1] for name in loaded} == {"core"}


def test_every_name_is_there() -> None:
    names = {"Hierarchy", "HierarchyConfig", "Level", "Tokens", "attend", "load_config", "train", "load_run"}
    assert names | {"Tokenizer", "Dataset", "Modality"} <= set(hrt_mm.__all__) <= set(dir(hrt_mm))
    for name in hrt_mm.__all__:
        assert callable(getattr(hrt_mm, name)), name


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_give_what_they_name(room: str) -> None:
    module = import_module(f"hrt_mm.{room}")
    for name in module.__all__:
        assert getattr(module, name) is not None


@pytest.mark.parametrize("order", ORDERS)
def test_train_is_the_package_and_its_function(order: str) -> None:
    check = "assert callable(train) and train.loop.train is hrt_mm.train.loop.train and train is hrt_mm.train"
    run(f"{ORDERS[order]}\nimport hrt_mm.train.loop\n{check}")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'hrt_mm' has no attribute 'trian'"):
        _ = hrt_mm.trian  # type: ignore[attr-defined]
