"""Devices by kind, with fakes for those that this machine lacks."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hrt_mm.core.devices import visible_devices, wide
from hrt_mm.core.errors import ConfigError
from hrt_mm.train.distributed import ProcessGroup, choose_device, device_named
from hrt_mm.train.precision import choose_dtype
from hrt_mm.train.seeding import forked
from hrt_mm.train.summary import device_name, peak_memory_bytes

Fake = Callable[..., None]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    def install(cuda: int = 0, xpu: int = 0, mps: bool = False) -> None:
        for name, count in (("cuda", cuda), ("xpu", xpu)):
            monkeypatch.setattr(f"torch.{name}.is_available", lambda count=count: count > 0)
            monkeypatch.setattr(f"torch.{name}.device_count", lambda count=count: count)
        monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)

    return install


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        ({}, "cpu"), ({"mps": True}, "mps:0"), ({"xpu": 1, "mps": True}, "xpu:0"),
        ({"cuda": 2, "xpu": 1}, "cuda:0"),
    ],
)  # fmt: skip
def test_auto_takes_the_first_kind_that_is_there(fake: Fake, there: dict[str, Any], chosen: str) -> None:
    fake(**there)
    assert choose_device("auto") == device_named("auto") == torch.device(chosen)
    assert choose_device("cpu") == torch.device("cpu")
    assert list(visible_devices()) == list(there)


def test_a_device_that_is_not_there_is_an_error(fake: Fake) -> None:
    fake(xpu=2)
    assert choose_device("xpu", 1) == device_named("xpu:1") == torch.device("xpu", 1)
    with pytest.raises(ConfigError, match=r"train.device mps for local rank 0, but 0 MPS devices .*; there are xpu;"):
        choose_device("mps")
    with pytest.raises(ConfigError, match=r"local rank 2, but 2 XPU devices are visible; start fewer"):
        choose_device("auto", 2)
    with pytest.raises(ConfigError, match=r"device xpu:2 is not available: 2 XPU devices"):
        device_named("xpu:2")
    with pytest.raises(ConfigError, match=r"device 'tpu' is unknown; it is auto, cpu, cuda or cuda:N, xpu or xpu:N"):
        device_named("tpu")


def test_mps_trains_in_one_process(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(mps=True)
    with ProcessGroup.from_env("auto") as ranks:
        assert (ranks.device.type, ranks.world_size) == ("mps", 1)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"train.device mps trains in one process"), ProcessGroup.from_env("mps"):
        pass


def test_sums_are_as_wide_as_the_device_allows() -> None:
    assert wide(torch.zeros(2)).dtype == torch.float64
    on_mps: Any = SimpleNamespace(device=torch.device("mps"), float=lambda: "float32", double=lambda: "float64")
    assert wide(on_mps) == "float32"


def test_generators_of_gpus_are_restored(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(mps=True)
    states = [7]
    monkeypatch.setattr("torch.mps.get_rng_state", lambda: states[-1])
    monkeypatch.setattr("torch.mps.set_rng_state", states.append)
    with forked():
        states.append(8)
    assert states == [7, 8, 7]
    with forked(host_only=True):
        states.append(9)
    assert states[-1] == 9


def test_bf16_is_chosen_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.xpu.is_bf16_supported", lambda: True)
    assert choose_dtype("auto", torch.device("xpu")) == torch.bfloat16
    assert choose_dtype("auto", torch.device("mps")) == torch.float32


def test_names_and_memory_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.xpu.get_device_name", lambda device: f"Arc {device.index}")
    monkeypatch.setattr("torch.xpu.max_memory_allocated", lambda device: 5)
    monkeypatch.setattr("torch.mps.driver_allocated_memory", lambda: 6)
    assert device_name(torch.device("xpu", 1)) == "Arc 1"
    assert device_name(torch.device("mps")).startswith("mps (")
    assert [peak_memory_bytes(torch.device(kind)) for kind in ("xpu", "mps")] == [5, 6]
