from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks import image_text
from benchmarks.command import main
from benchmarks.results import read
from benchmarks.runs import Finished
from hrt_mm.config import load_config
from hrt_mm.core.errors import UserError
from hrt_mm.train.check import check

GROUPS = ("Flags", "Objects")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Emoji of two groups: half of each tell theirs by the word alone, half by the shade alone."""
    folder = tmp_path / "emoji"
    folder.mkdir()
    lines = ["name\tkeywords\tgroup\tnoto\tsplit"]
    for index in range(96):
        group, by_word = index % 2, index // 2 % 2
        Image.new("L", (20, 20), 255 * group if not by_word else 128).save(folder / f"{index}.png")
        word = ("flag", "thing")[group] if by_word else "it"
        split = "train" if index < 64 else "val" if index < 72 else "test"
        lines.append(f"{word} n{index}\tmore|words\t{GROUPS[group]}\t{index}.png\t{split}")
    (folder / "index.tsv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    return folder


def made_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    trained: dict[str, list[str]] = {}

    def train(config: Path, folder: Path, overrides: list[str]) -> Finished:
        task = load_config(config, overrides).task
        trained[folder.name] = [*task.without, f"{task.alone:g}"]  # type: ignore[attr-defined]
        facts: dict[str, Any] = {"parameters": 9, "steps": 8, "samples": 16, "seconds": 60.0, "peak_memory_bytes": 1}
        return Finished(facts | {"metrics": {}}, [])

    def evaluate(folder: Path, split: str, overrides: list[str]) -> dict[str, float]:
        known = {("fused", "[]"): 0.8, ("fused", "[text]"): 0.6, ("fused", "[image]"): 0.7, ("text", "[image]"): 0.9}
        accuracy = known.get((folder.name, overrides[-1].partition("=")[2]), 0.65)
        return {"test/accuracy": accuracy, "test/macro_f1": accuracy - 0.1}

    monkeypatch.setattr("benchmarks.runs.trained", train)
    monkeypatch.setattr(image_text, "evaluate_run", evaluate)
    return trained


def test_both_are_held_against_each_and_against_a_shallow_pair(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = made_up(monkeypatch)
    path = tmp_path / "result.json"
    argv = ["--device", "cpu", "--threads", "1", "--json", str(path)]
    assert main(image_text.arguments(), image_text.run, image_text.tables, argv) == 0
    assert {name: words[:-1] for name, words in trained.items()} == {"fused": [], "image": ["text"], "text": ["image"]}
    assert trained["image"][-1] == trained["text"][-1] == "0"
    result = read(path)
    met = {bar.claim: (bar.measured, bar.met) for bar in result.bars}
    assert met["both over image, by a model of it alone"] == ("+15.0%", True)
    assert met["both over text, by a model of it alone"] == ("-10.0%", False)
    assert met["both over text alone in the same model"] == ("+10.0%", True)
    (shallow,) = (row.contenders for row in result.rows if row.sizes["model"] == "scikit-learn")
    # The pair is really trained: each knows its half and guesses the other, both know all.
    assert shallow["both"].scores["accuracy"] == 1.0
    for kind in ("text", "image"):
        assert 0.5 < (shallow[kind].scores["accuracy"] or 0) < 0.95
    assert result.settings["test"] == 24 and result.settings["most_common"] == 0.5
    assert "| scikit-learn | both |" in image_text.tables(result)


def test_runs_of_one_modality_can_be_left_out(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = made_up(monkeypatch)
    path = tmp_path / "result.json"
    argv = ["--device", "cpu", "--threads", "1", "--no-alone", "--json", str(path)]
    argv += ["--config", "retrieval/emoji_groups_words"]
    assert main(image_text.arguments(), image_text.run, image_text.tables, argv) == 0
    assert list(trained) == ["fused"]
    result = read(path)
    assert result.settings["config"] == "retrieval/emoji_groups_words"
    assert [row.sizes["model"] for row in result.rows] == ["fused", "scikit-learn"]
    assert not any("by a model of it alone" in bar.claim for bar in result.bars)


def test_models_of_one_modality_can_be_built(data: Path) -> None:
    config = load_config(image_text.CONFIGS[0])
    for kind in image_text.OTHER:
        check(image_text.alone(config, kind))


def test_the_data_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HRT_MM_DATA", raising=False)
    options = image_text.arguments().parse_args([])
    options.device = torch.device("cpu")
    with pytest.raises(UserError, match="HRT_MM_DATA is not set"):
        image_text.run(options)
