from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hrt_mm.cli.main import main
from hrt_mm.config import load_config
from hrt_mm.data.splits import Member, Splits
from hrt_mm.train.resolved import resolved_yaml
from hrt_modalities.vision.memory import DigitsConfig

MEMBERS = {
    "train": [
        Member("cat/1.png", "cat", "anna"),
        Member("cat/2.png", "cat", "anna"),
        Member("Cat/3.png", "Cat", "ben"),
    ],
    "val": [Member("x\ty\udcff.png", None)],
}


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Splits(MEMBERS, "by hand", warnings=("mind the gap",))
    monkeypatch.setattr(DigitsConfig, "splits", lambda self: made)


def shown(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> str:
    assert main(["data", "show", "vision/digits", *options]) == code
    return capsys.readouterr()[0 if code == 0 else 1]


@pytest.mark.usefixtures("listed")
def test_counts_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys).splitlines() == [
        "data: digits",
        "splits: by hand",
        "",
        "class            train  val",
        "---------------------------",
        "Cat                  1    0",
        "cat                  2    0",
        "without a class      0    1",
        "---------------------------",
        "all                  3    1",
        "groups               2    0",
        "",
        "warning: mind the gap",
        "warning: 2 of 2 classes have no sample in val: Cat, cat; the scores of val say nothing about them",
        "warning: classes with names that look alike are different classes: 'Cat' and 'cat'",
    ]
    assert "val" not in shown(capsys, "--split", "train").split("warning")[0]


@pytest.mark.usefixtures("listed")
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    result: Mapping[str, Any] = json.loads(shown(capsys, "--json"))
    assert result["made_by"] == "by hand" and len(result["warnings"]) == 3
    assert result["splits"] == {
        "train": {"samples": 3, "classes": {"Cat": 1, "cat": 2}, "groups": 2},
        "val": {"samples": 1, "classes": {}},
    }


@pytest.mark.usefixtures("listed")
def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "--list").splitlines()
    assert lines[:2] == ["split\tlabel\tgroup\tname", "train\tcat\tanna\tcat/1.png"]
    assert lines[-1] == "val\t\t\tx\\x09y\\udcff.png"
    (line,) = shown(capsys, "--list", "--json", "--split", "Dev").splitlines()
    assert json.loads(line) == {"split": "val", "label": None, "group": None, "name": "x\ty\udcff.png"}


@pytest.mark.usefixtures("listed")
def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--split dve: the data has train, val" in shown(capsys, "--split", "dve", code=2)
    assert "a.b" in shown(capsys, "a.b=c", code=2)


def test_data_without_a_list_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys)
    assert "fixed by data.type digits" in text and "warning" not in text
    assert [line.split() for line in text.splitlines() if line.startswith("all")] == [["all", "1,295", "143", "359"]]
    assert shown(capsys, "--split", "test", "--list").splitlines()[1] == "test\t1\t\tdigits/test/0"


def test_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(resolved_yaml(load_config("vision/digits")))
    assert main(["data", "show", str(tmp_path)]) == 0
    assert "digits" in capsys.readouterr().out
    assert main(["data", "show", str(tmp_path / "gone")]) == 2
