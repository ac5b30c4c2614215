from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import late_interaction as benchmark
from benchmarks.command import main
from benchmarks.results import read
from hrt_mm.core.spans import Spans
from hrt_mm.tasks import ContrastiveConfig
from hrt_mm.tasks.contrastive_views import Vectors
from hrt_mm.train.check import check


def test_a_quick_run_measures_every_method_and_keeps_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "WIDTHS", (8,))
    path, runs = tmp_path / "result.json", tmp_path / "runs"
    argv = ["--quick", "--device", "cpu", "--threads", "1", "--runs", str(runs), "--json", str(path), "--parts"]
    options = (benchmark.arguments(), benchmark.run, benchmark.tables)
    assert main(*options, [*argv, "levels", "nested", "negatives"], picture=benchmark.picture) == 0
    levels, nested, negatives = read(path).rows
    sizes = {name: measured.scores["vectors"] for name, measured in levels.contenders.items()}
    assert sizes == {
        "single": 1, "level strokes": 64, "level parts": 16, "mean as parts": 16, "ward as parts": 16,
        "level glyph": 4, "mean as glyph": 4, "ward as glyph": 4, "mean as one": 1,
    }  # fmt: skip
    assert set(nested.contenders) == {"nested 8", "cut 8", "trained at it 8", "nested 64", "cut 64"}
    assert list(negatives.contenders) == [
        "before", "batches of 64", "batches of 64 and hard negatives", "batches of 128",
    ]  # fmt: skip
    for measured in [contender for row in (levels, nested, negatives) for contender in row.contenders.values()]:
        assert all(0 <= (measured.scores[f"text_to_image/{name}"] or 0) <= 1 for name in benchmark.FIGURES)
    assert path.with_suffix(".png").stat().st_size > 1000
    assert "| level parts | 16 |" in benchmark.tables(read(path))
    summary = runs / "braille-levels-0" / "summary.json"
    before = summary.stat().st_mtime_ns
    assert main(*options, [*argv, "levels"]) == 0
    assert summary.stat().st_mtime_ns == before


@pytest.mark.parametrize("task", benchmark.TASKS)
def test_every_contender_is_a_configuration_that_can_be_built(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRT_MM_DATA", "/data")
    config = benchmark.with_levels(benchmark.base(task, tmp_path), benchmark.TASKS[task])
    check(config)
    assert isinstance(config.task, ContrastiveConfig)
    assert [pair.align for pair in config.task.also] == ["soft"] * len(benchmark.TASKS[task].levels)


def test_poolings_are_means_of_runs_and_of_clusters() -> None:
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
    np.testing.assert_allclose(benchmark.mean_runs(x, 2), [[0.5, 0.5], [0.55, 0.55]])
    clusters = benchmark.ward(x, 2)
    np.testing.assert_allclose(clusters[clusters[:, 0].argsort()], [[0.05, 1.0], [1.0, 0.05]])
    assert benchmark.ward(x[:2], 3).tolist() == x[:2].tolist()
    vectors = Vectors(torch.from_numpy(x).float(), Spans.from_lengths([2, 2]), torch.tensor([7, 8]))
    pooled = benchmark.pool_all(vectors, [1, 1], benchmark.mean_runs)
    torch.testing.assert_close(pooled.x, torch.full((2, 2), 0.5**0.5))
    assert pooled.samples.lengths.tolist() == [1, 1] and pooled.groups.tolist() == [7, 8]
