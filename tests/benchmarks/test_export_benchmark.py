"""The benchmark of exported models: its models can be exported, and its tables show what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import export
from benchmarks.command import main
from benchmarks.results import read
from hrt_mm.inference import ClassComparison, ExportedFile
from hrt_mm.inference.export import check_exportable


@pytest.mark.parametrize("modality", ["text", "audio", "video"])
def test_every_model_can_be_exported(modality: str, tmp_path: Path) -> None:
    run = export.random_run(export.config_of(modality, tmp_path), tmp_path)
    ((name, tokenizer),) = run.tokenizers.items()
    check_exportable(run.config.models[name], tokenizer)


def test_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exported(run: Any, path: Path, *options: Any, **named: Any) -> ExportedFile:
        full = ExportedFile(path, 1e-6, 4 << 20, ["1x2"], 2.0, 5.0, "4x8")
        return ExportedFile(path, 3e-2, 1 << 20, ["1x2"], 1.5, 5.0, "4x8", full)

    def compared(*arguments: Any) -> ClassComparison:
        return ClassComparison(359, 0.99, 0.9, 0.89)

    monkeypatch.setattr(export, "export_run", exported)
    monkeypatch.setattr(export, "compare_classes", compared)
    path = tmp_path / "result.json"
    words = ["--quick", "--device", "cpu", "--json", str(path)]
    assert main(export.arguments(), export.run, export.tables, words) == 0
    result = read(path)
    (row,) = result.rows
    assert row.ratios["speed-up"] == 2.5 and row.sizes["modality"] == "vision"
    lines = export.tables(result).splitlines()
    assert lines[2].endswith("| 4x8 | PyTorch |  |  | 0.9000 |  | 5.00 |")
    assert lines[3].endswith("| ONNX Runtime | 1.0e-06 |  |  | 4.00 | 2.00 |")
    assert lines[4].endswith("| ONNX Runtime, int8 | 3.0e-02 | 99.0% of 359 | 0.8900 | 1.00 | 1.50 |")


def test_noise_has_several_sizes(tmp_path: Path) -> None:
    run = export.random_run(export.config_of("text", tmp_path), tmp_path)
    samples = export.noise(run)
    assert len(samples) == export.NOISE and {len(sample.value) for sample in samples} == {5, 10, 15, 20}
