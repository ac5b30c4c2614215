"""What a benchmark reports, and the files that it lies in: ``benchmarks/results/NAME-DEVICE.json``.

A part that was measured apart, on another machine or for another time, is beside it: ``NAME-DEVICE-PART.json``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError, model_validator

from hrt_mm.analysis.doctor import has_amx, versions
from hrt_mm.core.component import Component
from hrt_mm.core.errors import UserError

FOLDER = Path(__file__).parent / "results"


class Measured(Component):
    """One contender at one size."""

    seconds: float | None
    """Median over the rounds; absent where it could not run."""
    quartiles: tuple[float, float] | None = None
    """First and third quartile of the seconds."""
    bytes: int | None = None
    """Peak memory of the call, beyond what is held before it."""
    held_bytes: int | None = None
    """Weights, optimizer state and input."""
    scores: dict[str, float | None] = Field(default_factory=dict)
    """What else was measured: a loss, an accuracy; absent values did not stay finite."""
    note: str = ""
    """Why there are no figures."""


class Row(Component):
    """All contenders at one size."""

    sizes: dict[str, int | float | str]
    contenders: dict[str, Measured]
    ratios: dict[str, float]


class Bar(Component):
    """A goal of the project for a measured figure."""

    claim: str
    goal: str
    measured: str
    met: bool

    @model_validator(mode="before")
    @classmethod
    def _former_key(cls, data: Any) -> Any:
        """Reads results that were written when ``goal`` was called ``asked``."""
        if isinstance(data, dict) and "asked" in data:
            data = {"goal" if key == "asked" else key: value for key, value in data.items()}
        return data


class Result(Component):
    """A run of a benchmark."""

    name: str
    command: str
    device: str
    quick: bool
    """Sizes too small for the figures to mean anything: the benchmark was only tried."""
    versions: dict[str, str]
    threads: int
    settings: dict[str, Any]
    checks: dict[str, float]
    """Relative differences of outputs that must be equal, each under its bound, or there would be no result."""
    rows: list[Row]
    bars: list[Bar] = Field(default_factory=list)
    details: dict[str, Any] = Field(default_factory=dict)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with threads and instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    sets = torch.backends.cpu.get_cpu_capability() + (" and AMX" if has_amx() else "")
    return f"CPU {_processor()}, {torch.get_num_threads()} threads, {sets}"


def _processor() -> str:
    try:
        names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0].strip() if names else "unknown"


def slug(device: torch.device) -> str:
    """The device in a file name: ``cpu``, ``nvidia-h100-80gb-hbm3``."""
    return "cpu" if device.type == "cpu" else re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def environment(device: torch.device) -> dict[str, Any]:
    """The fields of a result that say where it ran."""
    installed = versions()
    if device.type == "cuda":
        installed["cuda"] = torch.version.cuda or "none"
    return {"device": device_name(device), "versions": installed, "threads": torch.get_num_threads()}


def write(result: Result, path: Path) -> None:
    """Writes a result file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(result.model_dump(mode="json"), indent=1, allow_nan=False) + "\n")
    draft.replace(path)


def read(path: Path) -> Result:
    """A result from its file.

    Raises:
        UserError: it is not one.
    """
    try:
        return Result.model_validate_json(path.read_text())
    except ValidationError as error:
        raise UserError(f"{path} is not a result file: {error.errors()[0]['msg']}; run its benchmark again") from error
