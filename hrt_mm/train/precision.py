"""In which precision to compute, and deterministically where that is free."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch.utils import deterministic

from ..core.errors import ConfigError

Autocast = Callable[[], AbstractContextManager[None]]


def autocast(precision: str, device: torch.device) -> Autocast:
    """Makes the context that forward passes run in.

    Args:
        precision: ``fp32``, ``bf16``, or ``auto`` for bf16 where the device computes it in hardware.
        device: where the passes run.

    Raises:
        ConfigError: bf16 was asked for on a CUDA device without it.
    """
    dtype = choose_dtype(precision, device)
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; see :func:`autocast`."""
    if precision == "fp32" or (precision == "auto" and not computes_bf16(device)):
        return torch.float32
    if device.type == "cuda" and not computes_bf16(device):
        raise ConfigError(f"train.precision bf16: {torch.cuda.get_device_name(device)} has none; use fp32")
    return torch.bfloat16


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed in hardware: by tensor cores, or on a CPU by AMX tiles, much faster than fp32."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    return torch.cpu._is_amx_tile_supported()


def emulates_bf16(device: torch.device) -> bool:
    """Whether bf16 is many times slower than fp32, for want of an instruction: x86 without AVX512-BF16."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not (computes_bf16(device) or torch.cpu._is_avx512_bf16_supported())


@contextmanager
def numerics(device: torch.device, num_threads: int | None) -> Iterator[None]:
    """Sets threads, and on the CPU deterministic kernels, for the length of a run.

    With more threads than one, a few CPU kernels (the backward of indexing) add up in any order unless told.
    """
    threads = torch.get_num_threads()
    strict = torch.get_deterministic_debug_mode()
    fills = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    if device.type == "cpu" and not strict:
        # As use_deterministic_algorithms(True), which would first import the compiler, for seconds.
        torch.set_deterministic_debug_mode("error")
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(strict)
        deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
