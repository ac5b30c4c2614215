from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hrt_mm.core.errors import ConfigError
from hrt_modalities.joint.docstrings import DocstringsConfig

MODULE = '''
"""A module."""
import os

def one(value):
    """Returns one more.

    Not the summary.
    """
    return value + 1

def bare(value):
    return value

def inline(value): "On one line."; return value

class Thing:
    async def two(self):
        # Before.
        """  Says two.  """
        return 2
'''


def config(**options: Any) -> DocstringsConfig:
    return DocstringsConfig.model_validate({"type": "docstrings", **options})


def test_functions_lose_their_docstring_and_keep_the_rest(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"m{number}.py").write_text(MODULE.replace("value", f"value{number}").replace("2", f"{number}"))
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "t.py").write_text(MODULE)
    splits = {split: config(root=tmp_path).build(split) for split in ("train", "val", "test")}
    by_package = {split: {function.package for function in data.functions} for split, data in splits.items()}
    assert sum(map(len, by_package.values())) == 60 and not by_package["train"] & by_package["test"]
    samples = [data[index] for data in splits.values() for index in range(len(data))]
    assert len(samples) == 120
    sample = next(item for item in samples if item.name == "m7.one")
    assert sample.value == {"source": "def one(value7):\n    return value7 + 1", "text": "Returns one more."}
    sample = next(item for item in samples if item.name == "m7.two")
    assert sample.value == {"source": "async def two(self):\n    # Before.\n    return 7", "text": "Says two."}


def test_long_ones_are_left_out(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"m{number}.py").write_text(MODULE.replace("value", f"value{number}").replace("2", f"{number}"))
    data = config(root=tmp_path, max_text=10).build("train")
    assert {function.summary for function in data.functions} == {"Says two."}
    with pytest.raises(ConfigError, match="has no functions with docstrings for train"):
        config(root=tmp_path, max_source=3).build("train")


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        config(root=tmp_path / "none").build("train")


def test_the_standard_library_has_thousands_and_no_split_shares_a_package() -> None:
    splits = {split: config().build(split) for split in ("train", "val", "test")}
    assert len(splits["train"]) > 2000 and len(splits["val"]) > 50 and len(splits["test"]) > 50
    packages = [{function.package for function in data.functions} for data in splits.values()]
    assert not packages[0] & packages[1] and not packages[0] & packages[2] and not packages[1] & packages[2]
    sources = [{function.source for function in data.functions} for data in splits.values()]
    assert not sources[0] & (sources[1] | sources[2])
