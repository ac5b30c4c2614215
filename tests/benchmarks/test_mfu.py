"""MFU: its arithmetic, the table of peaks, and a tiny run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import mfu
from benchmarks.command import main
from benchmarks.models import hierarchy_config
from benchmarks.results import Measured, read
from hrt_mm import HierarchyConfig
from hrt_mm.analysis.control import num_parameters


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("NVIDIA GeForce GTX 1080", None),
        ("CPU AMD EPYC, 1 threads, AVX512", None),
    ],
)
def test_peaks_are_chosen_by_the_words_of_a_name(name: str, peak: float | None) -> None:
    assert mfu.peak_flops(name) == peak


def test_utilization_is_flops_a_second_over_the_peak() -> None:
    assert mfu.utilization(100e12, 0.25, 800e12) == 0.5
    assert mfu.utilization(100e12, 0.25, None) is None
    one = mfu.scored(Measured(seconds=0.25, scores={"activation_checkpointing": 0.0}), 100e12, 1000, 989e12)
    assert one.scores["tokens_per_second"] == 4000
    assert one.scores["mfu"] == pytest.approx(400 / 989)
    assert one.scores["activation_checkpointing"] == 0
    assert mfu.scored(Measured(seconds=None, note="out of memory"), 1.0, 1, 1.0).scores == {}


def test_flops_of_packed_sequences_are_those_of_each_and_without_recomputation() -> None:
    config = hierarchy_config(mfu.TINY)
    alone = mfu.step_flops(config, [200]), mfu.step_flops(config, [77])
    assert mfu.step_flops(config, [200, 77, 200]) == 2 * alone[0] + alone[1]
    assert mfu.step_flops(hierarchy_config(mfu.TINY, activation_checkpointing=True), [200]) == alone[0]
    # Linear maps alone take 6 FLOPs a parameter and token; coarser levels have fewer tokens, attention adds to it.
    assert 0 < alone[0] < 6 * num_parameters(config) * 200


def test_the_model_has_about_a_billion_parameters() -> None:
    assert num_parameters(hierarchy_config(mfu.BILLION)) == pytest.approx(1e9, rel=0.1)


def test_the_best_contender_is_held_against_the_goal() -> None:
    contenders = {
        "eager": Measured(seconds=1.0, scores={"mfu": 0.41}),
        "compiled": Measured(seconds=0.8, scores={"mfu": 0.52}),
    }
    [bar] = mfu.bars(contenders)
    assert (bar.claim, bar.measured, bar.met) == ("MFU of a training step, compiled", "52.0%", True)
    assert not mfu.bars({"eager": contenders["eager"]})[0].met
    assert mfu.bars({"eager": Measured(seconds=1.0, scores={"mfu": None})}) == []


def test_a_step_that_does_not_fit_recomputes_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(contender: str, config: HierarchyConfig, *_: object) -> Measured:
        fits = config.activation_checkpointing
        return Measured(seconds=1.0 if fits else None, note="" if fits else "out of memory")

    monkeypatch.setattr(mfu, "_measure", step)
    measured = mfu.measure("eager", mfu.TINY, [8], "float32", torch.device("cpu"), 0.1)
    assert measured.seconds == 1.0
    assert measured.scores["activation_checkpointing"] == 1


def test_a_tiny_model_is_measured_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mfu.json"
    words = ["--quick", "--device", "cpu", "--contenders", "eager", "--lengths", "40,24", "--json", str(path)]
    assert main(mfu.arguments(), mfu.run, mfu.tables, words) == 0
    result = read(path)
    [row] = result.rows
    scores = row.contenders["eager"].scores
    assert row.sizes["tokens"] == 64
    assert scores["tokens_per_second"]
    assert scores["mfu"] is None
    assert result.bars == []
    [error] = result.checks.values()
    assert error > 0
    assert "Dense bf16 peak: unknown, so there is no MFU." in capsys.readouterr().out


def test_what_was_measured_is_written_though_torch_compile_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(settings: object, dtype: str, contender: str, device: object) -> float:
        if contender == "compiled":
            raise torch._dynamo.exc.TorchDynamoException("no compiler\nmore")
        return 0.0

    monkeypatch.setattr(mfu, "check", check)
    monkeypatch.setattr(mfu, "measure", lambda *_: Measured(seconds=2.0))
    path = tmp_path / "mfu.json"
    assert main(mfu.arguments(), mfu.run, mfu.tables, ["--quick", "--device", "cpu", "--json", str(path)]) == 0
    [row] = read(path).rows
    assert row.contenders["eager"].scores["tokens_per_second"] == 377 / 2
    assert row.contenders["compiled"].note == "torch.compile failed: no compiler"
