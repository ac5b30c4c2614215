from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hrt_mm.core.errors import ConfigError
from hrt_modalities.common.splits import SPLITS
from hrt_modalities.corpora.peps import PepsConfig
from hrt_modalities.text import ByteTokenizer


def pep(number: int, split: str, **values: Any) -> dict[str, Any]:
    text = {"type": "text", "sentences": ["Größe zählt.", "Wirklich."]}
    block = {"type": "block", "sentences": ["a = 1\nb = 2"]}
    empty = {"type": "text", "sentences": []}
    sections = [
        {"title": "Why", "level": 1, "paragraphs": [text, block]},
        {"title": "", "level": 1, "paragraphs": [empty, text]},
    ]
    labels = {"type": ("Process", "Informational")[number % 2], "status": "Final", "topic": ""}
    return {"pep": number, "title": f"PEP {number}", **labels, "split": split, "sections": sections} | values


def write(root: Path, rows: list[dict[str, Any]]) -> Path:
    (root / "peps.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return root


def test_texts_carry_their_structure(tmp_path: Path) -> None:
    root = write(tmp_path, [pep(1, "train"), pep(2, "train"), pep(3, "val", topic="Typing, Release")])
    result = PepsConfig(type="peps", root=root).build("train")
    sample = result[1]
    assert (sample.name, sample.label, result.classes) == ("PEP 2", "Process", ("Informational", "Process"))
    text = sample.value
    assert text.content == "PEP 2\n\nWhy\n\nGröße zählt. Wirklich.\n\na = 1\nb = 2\n\nGröße zählt. Wirklich."
    pieces = {
        name: [text.content[first:last].strip() for first, last in zip(starts, [*starts[1:], None], strict=True)]
        for name, starts in text.boundaries.items()
    }
    title = "Größe zählt. Wirklich."
    assert pieces["paragraphs"] == ["PEP 2", "Why", title, "a = 1\nb = 2", title]
    assert pieces["sections"] == ["PEP 2", f"Why\n\n{title}\n\na = 1\nb = 2", title]
    assert pieces["sentences"] == [
        "PEP 2",
        "Why",
        *title.split(" W", 1)[:1],
        "Wirklich.",
        "a = 1\nb = 2",
        "Größe zählt.",
        "Wirklich.",
    ]
    tokenizer = ByteTokenizer().with_boundaries(text.boundaries)
    tokens = tokenizer([text])
    assert {name: int(mask.sum()) for name, mask in tokens.boundaries.items()} == {
        "sections": 3, "paragraphs": 5, "sentences": 7,
    }  # fmt: skip
    assert tokenizer.size(result.shape(1)) == len(tokens.x)


def test_topics(tmp_path: Path) -> None:
    rows = [pep(1, "train"), pep(2, "train", topic="Typing, Release"), pep(3, "test", topic="Typing")]
    result = PepsConfig(type="peps", root=write(tmp_path, rows), label="topic")
    assert result.build("train").classes == ("Typing", "none")
    assert result.build("test")[0].label == "Typing"


def test_mistakes_are_named(tmp_path: Path) -> None:
    config = PepsConfig(type="peps", root=tmp_path)
    with pytest.raises(ConfigError, match=r"holds no peps.jsonl"):
        config.build("train")
    write(tmp_path, [pep(1, "train"), pep(2, "test")])
    with pytest.raises(ConfigError, match=r"test of .* has classes that train has not: Process"):
        config.build("test")
    with pytest.raises(ConfigError, match="no documents for split 'val'; it has train: 1, test: 1"):
        config.build("val")
    write(tmp_path, [pep(1, "train", sections=[{"paragraphs": 3}])])
    with pytest.raises(ConfigError, match=r"peps.jsonl:1 is not laid out as sections, paragraphs and sentences"):
        config.build("train")
    with pytest.raises(ConfigError, match="unknown split 'dev'"):
        config.build("dev")


def test_the_real_ones(data_root: Path) -> None:
    for label, classes in (("type", 3), ("status", 8), ("topic", 5)):
        config = PepsConfig.model_validate({"type": "peps", "root": data_root / "peps", "label": label})
        parts = [config.build(split) for split in SPLITS]
        assert [len(part) for part in parts] == [565, 76, 62]
        assert all(part.classes is not None and len(part.classes) == classes for part in parts)
    sizes = [sum(part.shape(index)) for part in parts for index in range(len(part))]
    assert sum(sizes) > 12_500_000 and max(sizes) > 100_000, "whole documents"
    tokenizer = ByteTokenizer().with_boundaries({"sections", "paragraphs", "sentences"})
    counts = {name: int(mask.sum()) for name, mask in tokenizer([parts[2][0].value]).boundaries.items()}
    assert counts["sections"] <= 5 and counts["paragraphs"] >= 8 and counts["sentences"] >= 15
