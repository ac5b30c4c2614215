"""``summary.json``: the results of a finished run."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import resource
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from ..core.errors import UserError
from ..data.atomic_files import replace_file
from ..data.storage import parse_json
from ..tasks.base import Task


def write_summary(path: Path, values: Mapping[str, Any]) -> None:
    """Writes the summary atomically."""
    replace_file(path, (json.dumps(_plain(values), indent=2, allow_nan=False) + "\n").encode())


def read_summary(path: Path) -> dict[str, Any]:
    """Reads what :func:`write_summary` wrote. Non-finite metrics are None.

    Raises:
        UserError: the file is missing or damaged.
    """
    remedy = "remove it, or measure again with `hrt-mm eval`"
    try:
        summary = parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; the run has not finished") from error
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from error
    try:
        return {**summary, **asdict(_SCHEMA.validate_python(summary))}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: it is not the summary of a run; {remedy}") from error


@dataclass(frozen=True)
class _Required:
    """Keys that readers of a summary rely on."""

    steps: int
    seconds: float
    device: str
    metrics: dict[str, float | None]


_SCHEMA = TypeAdapter(_Required)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def machine(device: torch.device) -> dict[str, Any]:
    """``device`` and ``versions`` of the software."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    try:
        versions["hrt_mm"] = importlib.metadata.version("hrt-mm")
    except importlib.metadata.PackageNotFoundError:
        versions["hrt_mm"] = "not installed"
    if device.type == "cuda":
        versions["cuda"] = str(torch.version.cuda)
    return {"device": device_name(device), "versions": versions}


def device_name(device: torch.device) -> str:
    """Name of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return torch.xpu.get_device_name(device)
    if device.type == "mps":
        return f"mps ({platform.processor() or platform.machine()})"
    return f"cpu ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: on the device, or on the host when training on the CPU.

    MPS shares the host's memory and tells no peak; what it has allocated at the end is counted.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "xpu":
        return torch.xpu.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in KiB elsewhere.
    return peak if platform.system() == "Darwin" else peak * 1024


def parameter_count(task: Task) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
