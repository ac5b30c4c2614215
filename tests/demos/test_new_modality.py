"""The package of syntax trees, installed as users do: each command of its guide runs, and nothing here knows of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "demos" / "new_modality"

RUN = """
import contextlib, io, json, sys
from hrt_mm.cli.main import main
found = []
for line in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        found.append([main(line), out.getvalue()])
print(json.dumps(found))
"""
SMALL = [
    "train.steps=4", "train.eval_every=4", "train.batch_size=8", "train.tensorboard=false", "train.num_threads=1",
    "data.packages=[email,logging,unittest]", "optim.warmup_steps=1",
]  # fmt: skip

LEARNS = [
    "train.steps=80", "train.eval_every=80", "train.test=false", "train.tensorboard=false", "train.num_threads=1",
    "optim.warmup_steps=5",
]  # fmt: skip
"""Of the search by docstrings: 40 seconds on one core."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[object]]]:
    folder = tmp_path_factory.mktemp("syntax")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", str(folder / "site"), str(PACKAGE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    lines = [shlex.split(line) for line in re.findall(r"^\$ (.+)$", text, re.MULTILINE)]
    assert lines[0][0] == "pip"
    commands = []
    for _, *words in lines[1:]:
        words = [str(ROOT / word) if word.startswith("demos/") else word for word in words]
        options = LEARNS if any(word.endswith("search.yaml") for word in words) else SMALL
        commands.append([*words, *(options if words[0] == "train" else [])])
    environment = {**os.environ, "PYTHONPATH": str(folder / "site"), "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-P", "-c", RUN, json.dumps(commands)]
    done = subprocess.run(start, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_every_command_of_its_guide_runs(results: tuple[Path, list[list[object]]]) -> None:
    _, result = results
    assert [code for code, _ in result] == [0] * 7
    assert "syntax (hrt-mm-syntax-trees 0.1)" in str(result[0][1])
    assert len(str(result[-1][1]).splitlines()) == 10


def test_code_is_found_by_its_docstring_above_chance(results: tuple[Path, list[list[object]]]) -> None:
    folder, _ = results
    metrics = json.loads((folder / "runs" / "syntax-search" / "summary.json").read_text())["metrics"]
    for way in ("text_to_code", "code_to_text"):
        assert metrics[f"val/{way}/queries"] > 100
        # Files that were not trained on. Chance is one in twenty; 80 steps find more than three times as many.
        assert metrics[f"val/{way}/R@10"] > 2 * 10 / metrics[f"val/{way}/answers"]


def test_nothing_of_the_project_knows_of_it() -> None:
    for package in ("hrt_mm", "modalities"):
        for path in (ROOT / package).rglob("*.py"):
            assert "syntax_trees" not in path.read_text(encoding="utf-8"), path
