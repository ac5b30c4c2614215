"""A modality from a package of its own: installed, listed, validated and trained, with no change in hrt_mm."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "package"

CONFIG = """\
modality: {type: pulses, gain: 2.0}
model:
  levels:
    - {name: pulses, dim: 16, heads: 2, depth: 1, window: 8, group: {type: fixed, stride: 4}, pool: attention}
    - {name: series, dim: 16, heads: 2, depth: 1}
task: {type: classification, level: series}
data: {type: noise}
optim: {lr: 1e-2, warmup_steps: 2}
train: {steps: 30, batch_tokens: 256, eval_every: 30, workers: WORKERS}
"""

COMMANDS = """
import contextlib, io, json, sys
from hrt_mm.cli.main import main
results = []
for argv in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as end:
            code = end.code
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the package is installed. A folder of its own on the path, so that other tests never see it."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", str(target), str(PACKAGE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(target)}


def test_listed_in_help_schema_and_validation(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG.replace("WORKERS", "0"))
    commands = [
        ["modalities"],
        ["--help"],
        ["config", "schema"],
        ["config", "schema", "--builtin"],
        ["config", "validate", "a.yaml"],
        ["config", "validate", "a.yaml", "modality.gian=3"],
        ["config", "validate", "a.yaml", "data.type=digits"],
        ["config", "validate", "a.yaml", "modality.type=pulse"],
    ]
    driver = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(driver, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed, shown, schema, builtin, valid, typo, foreign, unknown = json.loads(done.stdout)
    assert "pulses (hrt-mm-pulses 1.2): Series of numbers, a token each.\n  data noise" in listed[1]
    names = next(line for line in shown[1].splitlines() if line.startswith("  modalities: "))
    assert "pulses" in re.split("[ ,;]+", names)
    assert "PulsesConfig" in json.loads(schema[1])["$defs"]
    assert "PulsesConfig" not in json.loads(builtin[1])["$defs"]
    assert valid[0] == 0 and valid[1].startswith("a.yaml: ok (")
    assert (typo[0], foreign[0], unknown[0]) == (2, 2, 2)
    assert "modality.gian: unknown key; did you mean 'gain'? (keys here: type, gain)" in typo[2]
    assert (
        "'digits' is a dataset of the modality vision, but modality.type is pulses; expected one of noise" in foreign[2]
    )
    assert "unknown modality type 'pulse'; did you mean 'pulses'?" in unknown[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_trained_from_yaml(environment: dict[str, str], tmp_path: Path, workers: int) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG.replace("WORKERS", str(workers)))
    command = [sys.executable, "-m", "hrt_mm", "train", "a.yaml", "run.dir=out"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["metrics"]["test/accuracy"] > 0.95
