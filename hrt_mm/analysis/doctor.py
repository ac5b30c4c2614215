"""Diagnosing the installation: versions, devices, and the attention backend for each precision."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from ..core.attention import BACKENDS, Call, choose
from ..core.extras import extras, missing_libraries
from ..core.spans import Spans
from ..data.registry import modalities

_PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "flash-attn", "decord", "einops", "safetensors", "pydantic")
_FOR_DEVELOPMENT = ("all", "ci", "dev", "docs")


def versions() -> dict[str, str]:
    """Versions of Python and of the main packages, or ``not installed``."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def device_name() -> str:
    """Name of the GPU, or architecture, threads and instruction set of the processor."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def has_amx() -> bool:
    """Whether the processor multiplies bf16 matrices in hardware (Intel AMX)."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe and probe())


def backend_table() -> list[tuple[str, str, dict[str, str]]]:
    """Precision, the attention backend that serves it, and why backends of higher priority do not."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    # Ragged runs, which every backend that serves equal ones has to serve as well.
    spans = Spans.from_lengths([3, 2], device)
    for dtype in (torch.float32, torch.bfloat16):
        q_THD = torch.zeros(spans.total, 1, 16, dtype=dtype, device=device)
        call = Call(q_THD, q_THD, q_THD, spans, spans, (-1, -1), 0.25)
        name = choose(call).name
        reasons = {
            backend.name: reason for backend in BACKENDS.values() if (reason := backend.why_not(call)) is not None
        }
        rows.append((str(dtype).removeprefix("torch."), name, reasons))
    return rows


def report() -> str:
    """The report, as text for a terminal."""
    lines = [f"device      {device_name()}"]
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        lines.append(f"            compute capability {major}.{minor}, CUDA {torch.version.cuda}")
    bf16 = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else has_amx()
    lines.append(f"bf16        {'in hardware' if bf16 else 'not in hardware: training runs in float32'}")
    lines += [f"{name:<12}{version}" for name, version in versions().items()]
    for dtype, chosen, reasons in backend_table():
        lines.append(f"attention   {dtype}: {chosen}")
        lines += [f"            not {name}: {why}" for name, why in reasons.items()]
    lines.append(f"modalities  {', '.join(modalities()) or 'none installed'}")
    for extra in extras():
        if extra not in _FOR_DEVELOPMENT and (names := missing_libraries(extra)):
            lines.append(f"extra       {extra}: {', '.join(names)} not installed")
    return "\n".join(lines)
