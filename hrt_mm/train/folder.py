"""Where a run lies."""

from __future__ import annotations

from pathlib import Path

from .run_config import RunConfig

PRETRAIN = "pretrain"
"""Folder of the run that came before a run, inside its own."""


def run_dir(config: RunConfig) -> Path:
    """The run folder: ``run.dir``, or ``runs/DATA-TASK``."""
    return config.run.dir or Path("runs") / f"{config.data.type}-{config.task.type}"
