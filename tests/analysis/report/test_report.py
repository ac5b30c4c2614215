from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from hrt_mm.analysis.report import diagnose, write_report
from hrt_mm.cli.main import main
from hrt_mm.core.errors import ConfigError, UserError
from tests.analysis.report.pictures import assert_drawn, pictures


def test_report_of_a_classifier(digits_run: Path) -> None:
    report = diagnose(digits_run)
    assert report.folder == digits_run / "report"
    assert pictures(report.folder) == {
        "attention",
        "attention_distance",
        "confusion",
        "curves",
        "gates",
        "groups",
        "mistakes",
        "recovery",
    }
    assert_drawn(report.folder)
    summary = json.loads((digits_run / "summary.json").read_text())
    accuracy = summary["metrics"]["test/accuracy"]
    assert report.summary[0].startswith(f"test accuracy {accuracy:.2%} ({round(accuracy * 359)} of 359), macro-F1 0.")
    # Six steps open few paths.
    shut = [line for line in report.summary if line.startswith("path ")]
    assert shut
    assert sum(line.startswith("pooling ") for line in report.summary) == 2
    text = (report.folder / "report.md").read_text()
    assert all(f"- {line}" in text for line in report.summary)
    states = re.findall(r"^\| (.+) \| [\d.e-]+ \| [\d.]+% \| (open|shut) \|$", text, re.MULTILINE)
    assert [name for name, _ in states] == [
        "image down to regions",
        "regions down to patches",
        "patches up to regions",
        "regions up to image",
    ]
    assert [f"path {name} is shut" for name, state in states if state == "shut"] == [
        line.split(":")[0] for line in shut
    ]
    for heading in ("Run", "Learning curves", "Confusion", "Groups", "Attention", "Paths between", "Pooling recovery"):
        assert f"## {heading}" in text


def test_report_of_masked_modelling(masked_run: Path) -> None:
    folder = write_report(masked_run)
    assert folder == masked_run / "report"
    assert_drawn(folder)
    assert "reconstructions" in pictures(folder)
    assert "confusion" not in pictures(folder)
    assert "- test/" in (folder / "report.md").read_text()
    assert "The true mean and standard deviation are used" in (folder / "report.md").read_text()


def test_report_of_a_modality_without_figures(series_run: Path) -> None:
    report = diagnose(series_run)
    assert_drawn(report.folder)
    assert {"groups", "attention", "confusion", "recovery"} <= pictures(report.folder)
    assert "gates" not in pictures(report.folder)


def test_run_that_was_stopped_has_a_report(digits_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "stopped"
    shutil.copytree(digits_run, run)
    (run / "summary.json").unlink()
    (run / "metrics.jsonl").write_text("")
    report = diagnose(run)
    text = (report.folder / "report.md").read_text()
    assert "no `summary.json`" in text
    assert "there are no curves" in text
    assert "curves" not in pictures(report.folder)


def test_command_prints_summary_and_replaces_the_report(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = digits_run / "report" / "old.png"
    old.parent.mkdir(exist_ok=True)
    # Only a folder with this file is a report, and replaced.
    (old.parent / "report.md").touch()
    old.write_bytes(b"")
    assert main(["diagnose", str(digits_run), "train.batch_size=128"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("test accuracy")
    assert lines[-1] == f"report: {digits_run / 'report' / 'report.md'}"
    assert not old.exists()
    assert not (digits_run / ".report.tmp").exists()


def test_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        diagnose(tmp_path)


def test_data_that_is_gone(digits_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "moved"
    shutil.copytree(digits_run, run)
    with pytest.raises(ConfigError, match="a report needs samples"):
        diagnose(run, ["data={type: mnist, root: /nowhere}"])
    assert not (run / ".report.tmp").exists()
