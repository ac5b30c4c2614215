"""Every benchmark runs with ``--quick``, and its result file has the shape that the tables are made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks import decode, encoder_scaling, learning_rate, models, overhead
from benchmarks.checks import CheckFailed, must_equal
from benchmarks.command import main
from benchmarks.results import Result, read

CONTENDERS = {
    encoder_scaling: {"hierarchy", "flat", "torch.nn.TransformerEncoder"},
    overhead: {"packed", "dense"},
    learning_rate: {"hierarchy", "flat"},
    decode: {"hierarchy", "flat"},
}
QUICK = ["--quick", "--device", "cpu", "--no-memory", "--threads", "1"]


@pytest.fixture(params=list(CONTENDERS), ids=lambda module: module.NAME)
def module(request: pytest.FixtureRequest) -> ModuleType:
    result: ModuleType = request.param
    return result


def test_a_quick_run_writes_a_result_of_the_fixed_shape(module: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    picture: Callable[[Result, Path], None] | None = getattr(module, "picture", None)
    assert main(module.arguments(), module.run, module.tables, [*QUICK, "--json", str(path)], picture=picture) == 0
    result = read(path)
    assert result.name == module.NAME
    assert result.quick
    assert result.command == f"python -m benchmarks.{module.NAME} --quick --device cpu --no-memory --threads 1"
    assert result.device.startswith("CPU ")
    assert result.threads == 1
    assert result.versions["torch"] == version("torch")
    assert result.checks
    assert all(value < 1e-3 for value in result.checks.values())
    for row in result.rows:
        assert row.sizes
        assert set(row.contenders) == CONTENDERS[module]
        assert all(one.seconds is not None and one.seconds > 0 for one in row.contenders.values())
        assert row.ratios
    raw = json.loads(path.read_text())
    assert {"command", "device", "versions", "rows"} <= set(raw)
    assert {"sizes", "contenders", "ratios"} <= set(raw["rows"][0])
    assert {"seconds", "bytes"} <= set(next(iter(raw["rows"][0]["contenders"].values())))
    assert path.with_suffix(".png").exists() == (picture is not None)


def test_nothing_is_reported_while_a_check_is_red(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def red(name: str, *rest: object) -> float:
        raise CheckFailed(f"{name}: outputs differ")

    monkeypatch.setattr(module, "must_equal", red)
    path = tmp_path / "result.json"
    assert main(module.arguments(), module.run, module.tables, [*QUICK, "--json", str(path)]) == 1
    assert not path.exists()
    captured = capsys.readouterr()
    assert "no report" in captured.err
    assert "outputs differ" in captured.err
    assert not captured.out


def test_a_wrong_attention_turns_the_check_red(monkeypatch: pytest.MonkeyPatch) -> None:
    from hrt_mm.core.attention import sdpa

    def without_scale(*args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*args, **{**kwargs, "scale": 1.0})

    monkeypatch.setattr(sdpa, "scaled_dot_product_attention", without_scale)
    settings = {**models.TINY, "device": "cpu"}
    with pytest.raises(CheckFailed, match="outputs differ"):
        encoder_scaling.check(settings, "float32")


def test_equality_fails_on_nan_zeros_and_shapes() -> None:
    ones = torch.ones(3)
    assert must_equal("same", [ones], [ones], 1e-9) == 0
    with pytest.raises(CheckFailed, match="differ by nan"):
        must_equal("x", [ones * torch.nan], [ones], 1.0)
    with pytest.raises(CheckFailed, match="all zeros"):
        must_equal("x", [ones * 0], [ones * 0], 1.0)
    with pytest.raises(CheckFailed, match=r"shapes \(3,\) and \(2,\)"):
        must_equal("x", [ones], [ones[:2]], 1.0)


def test_cuda_without_a_device_is_an_error(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(module.arguments(), module.run, module.tables, ["--quick", "--device", "cuda"]) == 1
    assert "sees no CUDA device" in capsys.readouterr().err
