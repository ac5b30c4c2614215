"""Several classes and numbers as labels of tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hrt_mm.core.errors import ConfigError
from hrt_modalities.text.documents import DocumentsConfig
from hrt_modalities.vision.files import ImageManifestConfig


def documents(folder: Path, rows: list[dict[str, Any]], **options: Any) -> DocumentsConfig:
    file = folder / "table.jsonl"
    file.write_text("".join(json.dumps({"text": "a", "split": "train"} | row) + "\n" for row in rows))
    return DocumentsConfig(type="documents", file=file, **options)


def test_classes_are_lists_or_separated_texts(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"label": "b; a"}, {"label": ["c", "c"]}, {"label": ""}, {"label": []}, {"label": 3}]
    dataset = documents(tmp_path, rows, label="classes").build("train")
    assert [dataset.label_of(index) for index in range(5)] == [["b", "a"], ["c"], [], [], ["3"]]
    assert [dataset[index].label for index in range(2)] == [["b", "a"], ["c"]]
    assert dataset.classes == ("3", "a", "b", "c")
    dataset = documents(tmp_path, [{"label": "b|a;c"}], label="classes", label_separator="|").build("train")
    assert dataset.label_of(0) == ["b", "a;c"]


def test_numbers_are_of_one_column_or_several(tmp_path: Path) -> None:
    dataset = documents(tmp_path, [{"label": 2}, {"label": "3.5"}], label="numbers").build("train")
    assert [dataset.label_of(index) for index in range(2)] == [[2.0], [3.5]]
    assert dataset.classes is None
    rows: list[dict[str, Any]] = [{"w": 1, "h": [2, 3]}, {"w": "4", "h": "5;-6e1"}]
    dataset = documents(tmp_path, rows, label="numbers", label_column=("w", "h")).build("train")
    assert [dataset.label_of(index) for index in range(2)] == [[1.0, 2.0, 3.0], [4.0, 5.0, -60.0]]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"label": "tall"}, {"label": "numbers"}, r"table.jsonl:1: label must be a number, got 'tall'"),
        ({"label": "nan"}, {"label": "numbers"}, r"label must be a number, got 'nan'"),
        ({"label": " "}, {"label": "numbers"}, r"the value of 'label' is empty; expected a number"),
        ({"w": 1}, {"label": "numbers", "label_column": ("w", "h")}, r"has no column 'h'"),
        ({"label": 1.5}, {"label": "classes"}, r"label must be names of classes with ';' between, or a list of them"),
        ({"label": [True]}, {"label": "classes"}, r"label must be names of classes"),
    ],
)
def test_a_label_of_another_kind_is_an_error(
    tmp_path: Path, row: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        documents(tmp_path, [row], **options).build("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_column": ("a", "b")}, "several columns, which are for label: numbers"),
        ({"label_column": (), "label": "numbers"}, "label_column is empty"),
        ({"label_separator": ","}, "label_separator is for label: classes and numbers"),
        ({"label_column": None, "label": "numbers"}, "no effect without label_column"),
    ],
)
def test_settings_without_effect_are_errors(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ImageManifestConfig(type="image_manifest", file=tmp_path / "table.csv", **options)
