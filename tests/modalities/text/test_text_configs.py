"""The configurations of this modality: each one loads, and takes a step on data of the form that it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrt_mm.config import load_config
from hrt_mm.train.build import build_data, build_task
from tests.modalities.corpora.test_peps import pep

CONFIGS = Path(__file__).parents[3] / "configs" / "text"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
OWN = {"listops": ["data.train=8", "data.val=2", "data.test=2"], "listops_short": ["data.train=8"]}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few made-up documents under HRT_MM_DATA, and a cache of the test's own."""
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text_small").mkdir()
    for part, size in (("train", 900), ("val", 100)):
        (tmp_path / "text_small" / f"tinyshakespeare_{part}.txt").write_text("First Citizen:\nBefore we go. " * size)
    (tmp_path / "peps").mkdir()
    status = ("Final", "Rejected")
    rows = [pep(n, split, status=status[n % 2]) for split in ("train", "val", "test") for n in range(8)]
    (tmp_path / "peps" / "peps.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    tags = [{"words": ["no", "cat"], "tags": ["D", "N"], "split": split} for split in ("train", "val", "test")] * 2
    (tmp_path / "tags.jsonl").write_text("\n".join(map(json.dumps, tags)))
    pairs = [f"a {n}\tb {n}\t{'yn'[n % 2]}\t{split}\n" for split in ("train", "val", "test") for n in range(4)]
    (tmp_path / "pairs.tsv").write_text("text1\ttext2\tlabel\tsplit\n" + "".join(pairs))
    for split in ("train", "val", "test"):
        for label in ("good", "bad"):
            folder = tmp_path / "documents" / split / label
            folder.mkdir(parents=True)
            (folder / "1.txt").write_text(f"A {label} film. It is {label}.")
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_takes_a_step(name: str, data: Path) -> None:
    config = load_config(CONFIGS / f"{name}.yaml", OWN.get(name, []))
    result = build_data(config, ["train", "val", *(["test"] if config.train.test else [])])
    task = build_task(config, result.tokenizers, result.classes)
    samples = [result.splits["train"][index] for index in range(2)]
    output = task(result.maker(config, "train").collator(samples))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(parameter.grad is not None for parameter in task.parameters())
