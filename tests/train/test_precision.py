from __future__ import annotations

import pytest
import torch

from hrt_mm.core.errors import ConfigError
from hrt_mm.train import precision
from hrt_mm.train.distributed import choose_device
from hrt_mm.train.precision import autocast, choose_dtype, numerics

CPU = torch.device("cpu")


@pytest.mark.parametrize(("in_hardware", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bf16_where_the_device_computes_it(
    monkeypatch: pytest.MonkeyPatch, in_hardware: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "computes_bf16", lambda device: in_hardware)
    assert choose_dtype("auto", CPU) == dtype
    assert choose_dtype("fp32", CPU) == torch.float32
    assert choose_dtype("bf16", CPU) == torch.bfloat16


@pytest.mark.parametrize("flags", [{"amx_bf16": True}, {"amx_bf16": False}, {}], ids=str)
def test_a_cpu_computes_bf16_where_it_has_amx(monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool]) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert precision.computes_bf16(CPU) == flags.get("amx_bf16", False)


@pytest.mark.parametrize(
    ("machine", "amx", "avx512", "emulated"),
    [
        ("x86_64", False, False, True),
        ("AMD64", False, False, True),
        ("x86_64", False, True, False),
        ("x86_64", True, False, False),
        ("arm64", False, False, False),
    ],
)
def test_x86_without_an_instruction_emulates_bf16(
    monkeypatch: pytest.MonkeyPatch, machine: str, amx: bool, avx512: bool, emulated: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(precision, "computes_bf16", lambda device: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert precision.emulates_bf16(CPU) == emulated
    assert not precision.emulates_bf16(torch.device("cuda"))


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_context_computes_in_it(name: str, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(4, 4)
    with autocast(name, CPU)():
        assert layer(torch.zeros(2, 4)).dtype == dtype
    assert layer(torch.zeros(2, 4)).dtype == torch.float32


def test_numerics_are_set_and_given_back() -> None:
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    with numerics(CPU, 2):
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == before[0]
    assert not torch.are_deterministic_algorithms_enabled()
    torch.set_deterministic_debug_mode(before[1])


def test_cuda_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(ConfigError, match=r"train.device cuda for local rank 0, but 0 CUDA devices are visible"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    assert choose_device("cpu", 5) == CPU
    with pytest.raises(ConfigError, match="local rank 2, but 2 CUDA devices"):
        choose_device("auto", 2)
