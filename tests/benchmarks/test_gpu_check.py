"""The check on a GPU: what it says without one, what it runs, and that a failure is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.command import main
from benchmarks.results import Bar, Measured, Result, Row, read


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
    monkeypatch.setattr(gpu_check, "BENCHMARKS", {"overhead": gpu_check.Part(["--budget", "1"], limit=500)})
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


def test_a_stopped_part_leaves_no_process_behind(tmp_path: Path) -> None:
    # The shell's child would hold the GPU if it went on.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    result = gpu_check.call(["sh", "-c", f"(sleep 20; echo survived) > {fifo} & wait"], 2.0)
    assert result["exit_code"] is None
    with os.fdopen(reader) as lines:
        assert lines.read() == ""


def test_parts_share_one_budget() -> None:
    seconds = [0.0]
    budget = gpu_check.Budget(690, clock=lambda: seconds[0])
    part = gpu_check.Part([], limit=240, least=200)
    assert budget.limit(part) == 240
    seconds[0] = 480.0
    assert budget.limit(part) == 210
    seconds[0] = 500.0
    assert budget.limit(part) is None
    seconds[0] = 900.0
    assert budget.left == 0


def test_more_time_raises_the_limits_and_less_does_not_lower_them() -> None:
    part = gpu_check.Part([], limit=100)
    assert gpu_check.Budget(1380, clock=lambda: 0.0).limit(part) == 200
    assert gpu_check.Budget(345, clock=lambda: 0.0).limit(part) == 100


def test_a_part_without_time_is_not_run_and_fails_the_check(
    marked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "BENCHMARKS", {"lm": gpu_check.Part([], limit=2000, least=1000)})
    path = marked / "result.json"
    words = ["--device", "cpu", "--quick", "--seconds", "600", "--json", str(path), "--tests", str(marked)]
    assert call(*words) == 1
    result = read(path)
    assert result.details["benchmarks"]["lm"]["outcome"].startswith("not run: ")
    assert "of 600 s were left, and it needs 1000" in result.rows[1].contenders["lm"].note
    assert result.rows[1].contenders["lm"].seconds is None
    assert "FAILED: benchmark lm" in capsys.readouterr().out


def test_the_parts_have_benchmarks_and_fit_the_time_but_for_the_last() -> None:
    for name in gpu_check.BENCHMARKS:
        assert (gpu_check.ROOT / "benchmarks" / f"{name}.py").is_file()
    *_, last = gpu_check.BENCHMARKS.values()
    assert last.least < last.limit < gpu_check.SECONDS


def scaling(quick: bool = False) -> Result:
    rows = [
        Row(
            sizes={"mode": "training", "dtype": dtype, "batch": 4, "tokens": tokens},
            contenders={"hierarchy": Measured(seconds=1.0), "flat": Measured(seconds=2.0)},
            ratios={"flat/hierarchy seconds": speed, "hierarchy/flat bytes": share},
        )
        for dtype in ("bfloat16", "float32")
        for tokens, speed, share in ((1024, 0.5, 0.9), (2048, 1.0, 0.5), (16384, 4.9, 0.25), (65536, 15.1, 0.2))
    ]
    return Result(
        name="encoder_scaling", command="", device="GPU", quick=quick, versions={}, threads=1,
        settings={"attention": {"bfloat16": "varlen"}}, checks={}, rows=rows,
    )  # fmt: skip


def test_goals_are_bars_where_there_are_figures() -> None:
    utilization = scaling().model_copy(
        update={"name": "mfu", "bars": [Bar(claim="MFU", goal="50%", measured="44.0%", met=False)]}
    )
    bars = gpu_check.goals({"encoder_scaling": scaling(), "mfu": utilization})
    assert [(bar.claim, bar.goal, bar.measured, bar.met) for bar in bars] == [
        ("flat control on FlashAttention-2 or later, bfloat16", "varlen or flash_attn", "varlen", True),
        ("faster than flat: training, bfloat16, 2048 tokens", "1x", "1.00x", True),
        ("faster than flat: training, bfloat16, 16384 tokens", "5x", "4.90x", False),
        ("memory over flat's: training, bfloat16, 16384 tokens", "25% or less", "25.0%", True),
        ("faster than flat: training, bfloat16, 65536 tokens", "15x", "15.1x", True),
        ("MFU", "50%", "44.0%", False),
    ]
    assert gpu_check.goals({"encoder_scaling": scaling(quick=True)}) == []
    assert gpu_check.goals({}) == []
