"""Section: what the run was, and what it came to."""

from __future__ import annotations

from typing import Any

from ...tasks.fused import Fused
from ...tasks.labels import LabelTask
from ...train.summary import read_summary
from .page import Page
from .subject import Subject


def overview_section(subject: Subject, page: Page) -> None:
    """Names the run's parts, and gives what its ``summary.json`` says where it has one."""
    run = subject.run
    path = run.folder / "summary.json"
    summary: dict[str, Any] = read_summary(path) if path.is_file() else {}
    metrics = {name: value for name, value in summary.get("metrics", {}).items() if value is not None}
    if not isinstance(run.task, LabelTask | Fused):
        for name, value in metrics.items():
            if name.startswith("test/") and name.count("/") == 1:
                page.say(f"{name} {value:.4g}")
    page.heading("Run")
    levels = ", ".join(run.config.level_names)
    rows = [
        ("task", run.config.task.type),
        ("data", run.config.data.type),
        ("levels", levels),
        ("parameters", f"{sum(parameter.numel() for parameter in run.task.parameters()):,}"),
        ("weights of step", f"{run.checkpoint.step:,}"),
        ("samples below", f"the {subject.split} split, {len(subject.dataset):,} samples"),
    ]
    if summary:
        rows.append(("trained", f"{summary['steps']:,} steps in {summary['seconds']:.0f} s on {summary['device']}"))
        rows += [(name, f"{value:.4g}") for name, value in metrics.items()]
    else:
        page.text("The run has no `summary.json`: it was stopped, or has not finished.")
    page.table(("", ""), rows)
