from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import audio, contest, curves, memory, patches
from benchmarks.command import main
from benchmarks.memory import TimeLimitError
from benchmarks.models import size
from benchmarks.results import read
from hrt_mm import Tokens
from tests.modalities.audio.small_corpora import fsdd

QUICK = ["--quick", "--device", "cpu", "--no-memory", "--threads", "1"]


def test_a_quick_run_measures_and_trains_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRT_MM_DATA", str(tmp_path))
    (tmp_path / "fsdd").mkdir()
    fsdd(tmp_path / "fsdd", takes=30)
    path = tmp_path / "result.json"
    assert main(audio.arguments(), audio.run, audio.tables, [*QUICK, "--json", str(path)]) == 0
    result = read(path)
    assert [(row.sizes["mode"], row.sizes["seconds"]) for row in result.rows] == [
        (mode, seconds) for mode in ("inference", "training") for seconds in (0.5, 1)
    ]
    for row in result.rows:
        assert set(row.contenders) == set(audio.CONTENDERS)
        assert all(one.seconds for one in row.contenders.values())
        assert row.ratios.keys() == {"flat/hierarchy seconds", "AST-like/hierarchy seconds"}
    results = result.details["accuracy"]
    assert results.keys() == set(audio.CONTENDERS)
    sizes = [item["parameters"] for item in results.values()]
    assert max(sizes) / min(sizes) < 1.02
    for item in results.values():
        (first, steps, _), (last, more, accuracy) = item["curve"]
        assert first < last and steps <= more and 0 <= accuracy <= 1
    assert "after" in audio.tables(result)


def test_contenders_have_the_size_of_the_hierarchy() -> None:
    settings = {"quick": False, "device": "cpu"}
    sizes = [size(audio.build(name, settings)[0]) for name in audio.CONTENDERS]
    assert all(abs(count / sizes[0] - 1) < audio.TOLERANCE for count in sizes)


def test_what_is_too_slow_or_too_large_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(benchmark: str, prepare: object, name: str, *rest: object) -> memory.Memory:
        if name != "hierarchy":
            raise TimeLimitError if name == "flat" else MemoryError
        return memory.Memory(1 << 20, 1)

    monkeypatch.setattr(contest, "peak_bytes", stopped)
    settings = {"quick": True, "device": "cpu", "memory": True, "limit_seconds": 7.0, "budget_seconds": 0.0}
    row = audio.CONTEST.row(audio.prepare, {"mode": "inference", "dtype": "float32", "seconds": 0.5}, settings)
    assert [item.note for item in row.contenders.values()] == ["", "over 7 s", "out of memory"]
    assert row.contenders["flat"].seconds is None and row.contenders["hierarchy"].seconds
    assert audio.CONTEST.cells(row)[2:4] == ["over 7 s", "out of memory"]


def test_a_process_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux's /proc")
    settings = {"quick": True, "device": "cpu", "threads": 1, "memory": True}
    sizes: memory.Sizes = {"mode": "inference", "dtype": "float32", "seconds": 600}
    with pytest.raises(TimeLimitError):
        memory.peak_bytes("audio", audio.prepare, "flat", sizes, sizes | {"seconds": 0.5}, settings, limit=0.0)


def test_patches_take_sounds_of_any_length() -> None:
    model = patches.PatchTransformer(mels=40, stack=2, heads=2, head=24, depth=1)
    tokens = Tokens.pack([torch.randn(length, 80) for length in (1, 7, 90)])
    assert model(tokens).shape == (3, 48)
    fitted = patches.fitted(40, 2, 3, 1_000_000)
    assert sum(item.numel() for item in fitted.parameters()) == pytest.approx(1_000_000, rel=0.02)


def test_accuracy_counts_what_is_right() -> None:
    class Told(torch.nn.Module):
        def forward(self, tokens: Tokens) -> torch.Tensor:
            return torch.stack([x_TF[0] for x_TF in tokens.split()])

    first, second = Tokens.pack([torch.eye(3)[[index]] for index in (0, 1)]), Tokens.pack([torch.eye(3)])
    held = [(first, torch.tensor([0, 2])), (second, torch.tensor([0]))]
    assert curves.accuracy(Told(), held) == pytest.approx(2 / 3)  # type: ignore[arg-type]
