"""``summary.json``: what a finished run has to show."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..tasks.base import Task
from .files import replace_file


def write_summary(path: Path, values: Mapping[str, Any]) -> None:
    """Writes the summary whole or not at all."""
    replace_file(path, (json.dumps(_plain(values), indent=2, allow_nan=False) + "\n").encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def machine(device: torch.device) -> dict[str, Any]:
    """Where a run ran: ``device`` and ``versions``."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    try:
        versions["hrt_mm"] = importlib.metadata.version("hrt-mm")
    except importlib.metadata.PackageNotFoundError:
        versions["hrt_mm"] = "not installed"
    if device.type == "cuda":
        versions["cuda"] = str(torch.version.cuda)
    return {"device": device_name(device), "versions": versions}


def device_name(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has held: on the CUDA device, or on the host where it computes there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def parameter_count(task: Task) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
