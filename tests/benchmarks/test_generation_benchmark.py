from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import generation
from benchmarks.command import main
from benchmarks.results import read
from benchmarks.runs import _parameters
from hrt_mm.config import load_config
from hrt_mm.tasks import GenerationConfig


@pytest.mark.parametrize("task", generation.MINUTES)
def test_the_flat_control_has_the_blocks_and_the_parameters(task: str) -> None:
    config = load_config(f"generation/{task}")
    control = generation.flat(config)
    assert isinstance(control.task, GenerationConfig)
    assert _parameters(control) == pytest.approx(_parameters(config), rel=0.06)
    for name, tower in control.towers.items():
        model = config.towers[name].model
        decoders = sum(level.decoder_depth for level in model.levels[:-1]) if model.top_down else 0
        assert len(tower.model.levels) == 1 and tower.modality == config.towers[name].modality
        assert tower.model.levels[0].depth == decoders + sum(level.depth for level in model.levels)
        assert tower.model.causal == model.causal


def test_a_quick_run_scores_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "result.json"
    argv = ["--quick", "--device", "cpu", "--threads", "1", "--tasks", "transcripts", "--json", str(path)]
    assert main(generation.arguments(), generation.run, generation.tables, argv) == 0
    result = read(path)
    (row,) = result.rows
    assert set(row.contenders) == {"hierarchy", "flat"}
    for measured in row.contenders.values():
        assert measured.scores["steps"] and set(generation.METRICS) <= set(measured.scores)
        bits = measured.scores["bits_per_byte"]
        assert bits is not None and 0 < bits < 12
    assert "| transcripts | hierarchy |" in generation.tables(result)
