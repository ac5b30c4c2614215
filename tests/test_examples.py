"""Job scripts and manifests: their shell, their YAML, and the commands in them as torchrun and hrt-mm parse them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from hrt_mm.cli.main import parse
from hrt_mm.config import load_config

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples" / "slurm").iterdir())
MANIFESTS = sorted((ROOT / "examples" / "kubernetes").iterdir())
SBATCH_OPTIONS = {
    "array", "cpus-per-task", "gpus-per-node", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output",
    "requeue", "signal", "time",
}  # fmt: skip
VARIABLES = {
    "SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "8",
    "SLURM_NNODES": "2", "head_node": "node1",
}  # fmt: skip


def check_command(words: list[str]) -> None:
    """Parses a command as its programs would, and loads the configuration."""
    if "torchrun" in words:
        launched = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
        assert launched.module
        assert launched.training_script == "hrt_mm"
        arguments = launched.training_script_args
    else:
        arguments = words[words.index("hrt-mm") + 1 :]
    args = parse(arguments)
    config = load_config(args.config, args.overrides)
    assert config.run.dir is not None


def commands(manifest: Any) -> list[list[str]]:
    """Every ``command`` in a manifest, as words."""
    if isinstance(manifest, list):
        return [words for item in manifest for words in commands(item)]
    if not isinstance(manifest, dict):
        return []
    listed = [words for item in manifest.values() for words in commands(item)]
    command = manifest.get("command")
    return listed + ([shlex.split(command[2]) if command[:2] == ["bash", "-c"] else command] if command else [])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_job_script(path: Path) -> None:
    text = path.read_text()
    subprocess.run(["bash", "-n", str(path)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=bash", str(path)], check=True)
    head, _, body = text.partition("set -euo pipefail\n")
    options = re.findall(r"^#SBATCH --([a-z-]+)(?:=\S+)?$", head, re.MULTILINE)
    assert set(options) <= SBATCH_OPTIONS
    # sbatch ignores options after the first command.
    assert head.count("#SBATCH") == len(options) == len(set(options))
    assert "#SBATCH" not in body
    assert {"signal", "requeue", "time"} <= set(options)
    (command,) = re.findall(r"^srun (?:.*\\\n)*.*$", body, re.MULTILINE)
    for name, value in VARIABLES.items():
        command = re.sub(rf"\${name}\b", value, command)
    assert "$" not in command
    check_command(shlex.split(command.replace("\\\n", " ")))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifest(path: Path) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    assert all({"apiVersion", "kind", "metadata", "spec"} <= document.keys() for document in documents)
    listed = commands(documents)
    assert listed
    for words in listed:
        check_command(words)


def test_the_pods_of_the_job_find_each_other() -> None:
    service, job = yaml.safe_load_all((ROOT / "examples" / "kubernetes" / "indexed_job.yaml").read_text())
    pod = job["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (words,) = commands(job)
    launched = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    assert launched.rdzv_endpoint == f"{job['metadata']['name']}-0.{pod['spec']['subdomain']}:29500"
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]
    assert int(launched.nnodes) == job["spec"]["completions"] == job["spec"]["parallelism"]
    limits = pod["spec"]["containers"][0]["resources"]["limits"]
    assert int(launched.nproc_per_node) == limits["nvidia.com/gpu"]


def test_examples_are_documented() -> None:
    page = (ROOT / "docs" / "how-to" / "distributed.md").read_text()
    for path in (*SCRIPTS, *MANIFESTS):
        assert str(path.relative_to(ROOT)) in page, path
