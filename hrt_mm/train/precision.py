"""Precision, threads and determinism."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch.utils import deterministic

from ..core.errors import ConfigError

Autocast = Callable[[], AbstractContextManager[None]]


def autocast(precision: str, device: torch.device) -> Autocast:
    """The autocast context of forward passes.

    Args:
        precision: ``fp32``, ``bf16``, or ``auto`` for bf16 if the hardware supports it.
        device: of the model.

    Raises:
        ConfigError: bf16 was requested on a CUDA device without it.
    """
    dtype = choose_dtype(precision, device)
    # A context cannot be entered twice at a time, so each forward pass makes its own.
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; see :func:`autocast`."""
    if precision == "fp32" or (precision == "auto" and not computes_bf16(device)):
        return torch.float32
    if device.type == "cuda" and not computes_bf16(device):
        raise ConfigError(f"train.precision bf16: {torch.cuda.get_device_name(device)} has none; use fp32")
    return torch.bfloat16


def computes_bf16(device: torch.device) -> bool:
    """Whether the hardware computes bf16 faster than fp32: tensor cores, or AMX tiles of a CPU."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "xpu":
        return bool(torch.xpu.is_bf16_supported())
    if device.type == "mps":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return torch.cpu._is_amx_tile_supported()


def emulates_bf16(device: torch.device) -> bool:
    """Whether bf16 is emulated, many times slower than fp32: on x86 without AVX512-BF16."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not (computes_bf16(device) or torch.cpu._is_avx512_bf16_supported())


@contextmanager
def numerics(device: torch.device, num_threads: int | None) -> Iterator[None]:
    """Sets the number of threads and, on the CPU, deterministic kernels, for the duration of the block.

    With several threads, a few CPU kernels (such as the backward of indexing) sum in a random order by default.
    """
    threads = torch.get_num_threads()
    debug_mode = torch.get_deterministic_debug_mode()
    fill_memory = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if device.type == "cpu" and not debug_mode:
        # As use_deterministic_algorithms(True), which takes seconds as it imports the compiler.
        torch.set_deterministic_debug_mode("error")
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(debug_mode)
        deterministic.fill_uninitialized_memory = fill_memory  # type: ignore[attr-defined]
