"""The tables of the benchmark pages come from the result files and are current."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import table
from benchmarks.results import FOLDER, Bar, Measured, Result, Row, write
from hrt_mm.core.errors import UserError


def result(**changes: Any) -> Result:
    rows = [
        Row(
            sizes={"mode": "inference", "dtype": "float32", "lengths": "uniform", "batch": 2, "tokens": 64},
            contenders={
                "packed": Measured(seconds=0.0123, quartiles=(0.012, 0.013), bytes=3 << 20),
                "dense": Measured(seconds=0.0246, bytes=6 << 20),
            },
            ratios={"dense/packed seconds": 2.0, "ideal gain": 2.5, "share of the ideal gain": 0.8},
        )
    ]
    fields = {
        "name": "overhead",
        "command": "python -m benchmarks.overhead",
        "device": "CPU Some, 2 threads, AVX512",
        "quick": False,
        "versions": {"torch": "2.14.1", "python": "3.11"},
        "threads": 2,
        "settings": {"widths": [8], "depths": [1]},
        "checks": {},
        "rows": rows,
        "bars": [
            Bar(claim="fast", goal="1x", measured="2x", met=True),
            Bar(claim="cheap", goal="1", measured="2", met=False),
        ],
        "details": {
            "profile": [{**rows[0].sizes, "operator": "aten::mm", "packed": 1.0, "dense": 2.0, "over_ideal": 0.2}]
        },
    }
    return Result.model_validate(fields | changes)


def test_the_pages_are_current() -> None:
    assert table.rendered(table.read_pages(), FOLDER) == table.read_pages(), "run: python -m benchmarks.table"


def test_a_section_has_the_figures_and_what_falls_short(tmp_path: Path) -> None:
    write(result(), tmp_path / "overhead-cpu.json")
    text = table.section(tmp_path, "overhead")
    assert "### CPU Some, 2 threads, AVX512" in text
    assert (
        "| 64 tokens, uniform, inference, float32 | 12.3 (12.0 to 13.0) | 24.6 | 2.00x | 2.50x | 80% | 3.00 | 6.00 |"
        in text
    )
    assert "| fast | 1x | 2x | yes |" in text
    assert "| cheap | 1 | 2 | **no** |" in text
    assert text.endswith("**CUDA: not measured yet.**")


def test_a_device_that_was_measured_is_not_called_unmeasured(tmp_path: Path) -> None:
    write(result(device="NVIDIA H100"), tmp_path / "overhead-nvidia-h100.json")
    text = table.section(tmp_path, "overhead")
    assert "CUDA: not measured" not in text
    assert "CPU: not measured" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"quick": True}, "comes from --quick"), ({"name": "learning_rate"}, "is a result of learning_rate")],
    ids=["quick", "other"],
)
def test_results_that_say_nothing_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(result(**changes), tmp_path / "overhead-cpu.json")
    with pytest.raises(UserError, match=message):
        table.section(tmp_path, "overhead")


def test_a_broken_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "overhead-cpu.json").write_text('{"name": "overhead"')
    with pytest.raises(UserError, match=r"overhead-cpu\.json is not a result file"):
        table.section(tmp_path, "overhead")


def test_missing_markers_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="<!-- encoder_scaling -->"):
        table.rendered({tmp_path / "index.md": "# Benchmarks\n"}, tmp_path)


def test_markers_on_two_pages_are_refused(tmp_path: Path) -> None:
    text = "<!-- encoder_scaling -->\n<!-- end encoder_scaling -->\n"
    with pytest.raises(UserError, match="2 pages"):
        table.rendered({tmp_path / "a.md": text, tmp_path / "b.md": text}, tmp_path)


def test_check_says_whether_tables_are_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("\n".join(f"<!-- {name} -->\n<!-- end {name} -->" for name in table.TABLES) + "\n")
    monkeypatch.setattr(table, "PAGES", tmp_path)
    monkeypatch.setattr(table, "FOLDER", tmp_path)
    assert table.main(["--check"]) == 1
    assert "out of date; run: python -m benchmarks.table" in capsys.readouterr().err
    assert table.main([]) == 0
    assert table.main(["--check"]) == 0
    write(result(), tmp_path / "overhead-cpu.json")
    assert table.main(["--check"]) == 1
