"""The check on a GPU: what it says without one, what it runs, and that a failure is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.command import main
from benchmarks.results import read


def call(*words: str) -> int:
    return main(gpu_check.arguments(), gpu_check.run, gpu_check.tables, words, strict=True)


def test_without_a_gpu_it_says_so_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "result.json"
    assert call("--json", str(path)) == 1
    assert "sees no CUDA device, so nothing was checked" in capsys.readouterr().err
    assert not path.exists()


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """A folder with a test that passes, one that is skipped and one that is not marked."""
    source = """
import pytest

@pytest.mark.gpu
def test_passes(): pass

@pytest.mark.gpu
def test_is_skipped(): pytest.skip("no reason")

def test_is_not_marked(): raise AssertionError
"""
    (tmp_path / "test_marked.py").write_text(source)
    return tmp_path


def test_a_rehearsal_runs_tests_and_benchmarks(
    marked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "BENCHMARKS", {"overhead": ["--budget", "1"]})
    path = marked / "result.json"
    assert call("--device", "cpu", "--quick", "--json", str(path), "--tests", str(marked)) == 0
    result = read(path)
    assert result.details["pytest"]["counts"] == {"tests": 2, "failures": 0, "errors": 0, "skipped": 1}
    assert result.details["benchmarks"]["overhead"]["result"]["rows"]
    assert [row.sizes["part"] for row in result.rows] == ["pytest", "overhead"]
    assert all(bar.met for bar in result.bars)
    assert "all passed" in capsys.readouterr().out


def test_a_failing_test_fails_the_check_and_its_output_is_kept(
    marked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (marked / "test_marked.py").write_text("import pytest\n@pytest.mark.gpu\ndef test_fails(): assert 1 == 2\n")
    monkeypatch.setattr(gpu_check, "BENCHMARKS", {})
    path = marked / "result.json"
    assert call("--device", "cpu", "--quick", "--json", str(path), "--tests", str(marked)) == 1
    result = read(path).details["pytest"]
    assert result["counts"]["failures"] == 1
    assert "assert 1 == 2" in result["output"]
    assert "FAILED: tests marked gpu" in capsys.readouterr().out


def test_no_marked_test_at_all_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")
    monkeypatch.setattr(gpu_check, "BENCHMARKS", {})
    path = tmp_path / "result.json"
    assert call("--device", "cpu", "--quick", "--json", str(path), "--tests", str(tmp_path)) == 1
    assert read(path).details["pytest"]["outcome"] == "no test is marked gpu"


def test_a_part_that_takes_too_long_is_stopped() -> None:
    result = gpu_check.call(["sleep", "30"], 0.2)
    assert result["exit_code"] is None
    assert result["outcome"] == "stopped after 0.2 s"
