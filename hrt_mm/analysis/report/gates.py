"""Report section: contributions of the paths between levels, and which of them are closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...core.cross_scale import GATE, CrossAttention
from ...core.hierarchy import Hierarchy
from ...tasks.encoder import Encoder
from .page import Page
from .style import BLUE, GREY, ORANGE, panels
from .subject import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 256
"""Number of samples to measure contributions on."""
SHUT_GATE = GATE / 4
"""Mean gate magnitude below which a path counts as closed."""
SHUT_CONTRIBUTION = 0.01
"""Relative contribution below which a path counts as closed."""


@dataclass(frozen=True, eq=False)
class Path:
    """A path between two levels.

    Args:
        name: key in the hierarchy's stats.
        text: description.
        gate_D: its gate, if any.
        contribution: norm of what it adds, relative to the norm of what it is added to.
    """

    name: str
    text: str
    gate_D: Tensor | None
    contribution: float

    @property
    def gate(self) -> float | None:
        """Mean magnitude of the gate."""
        return None if self.gate_D is None else float(self.gate_D.abs().mean())

    @property
    def shut(self) -> str | None:
        """Why the path counts as closed; ``None`` if it is open."""
        if self.gate is not None and self.gate < SHUT_GATE:
            return f"its gate is {self.gate:.2g} in the mean, below {SHUT_GATE:g}"
        if self.contribution < SHUT_CONTRIBUTION:
            return f"it adds {self.contribution:.2%}, below {SHUT_CONTRIBUTION:.0%}"
        return None


def gates_section(subject: Subject, page: Page) -> None:
    """Measures and draws the paths between levels."""
    paths = measure_paths(subject, subject.encoder)
    if not paths:
        return
    page.heading("Paths between levels")
    caption = (
        f"Left: the gate of each path, mean size over channels, with the range that the middle 80% lie in; gates start "
        f"at {GATE:g}. Right: what the path adds, over the norm of what it adds to. Grey paths are shut."
    )
    page.picture("gates", draw_paths(paths), caption)
    page.table(
        ("path", "gate", "adds", ""),
        [
            (
                path.text,
                "-" if path.gate is None else f"{path.gate:.3g}",
                f"{path.contribution:.1%}",
                "shut" if path.shut else "open",
            )
            for path in paths
        ],
    )
    for path in paths:
        if path.shut:
            page.say(f"path {path.text} is shut: {path.shut}")
    if not any(path.shut for path in paths):
        least = min(paths, key=lambda path: path.contribution)
        page.say(
            f"all {len(paths)} paths between levels are open; the least, {least.text}, adds {least.contribution:.1%}"
        )


def measure_paths(subject: Subject, encoder: Encoder) -> list[Path]:
    """The paths of the hierarchy, with their contributions on some samples."""
    hierarchy = encoder.hierarchy
    sums: dict[str, float] = {}
    count = 0
    hierarchy.measure_contributions = True
    try:
        for tokens in subject.packs(SAMPLES):
            for name, value in encoder(tokens).stats.items():
                # Contributions are means over a batch, which counts by its samples.
                sums[name] = sums.get(name, 0.0) + float(value) * len(tokens)
            count += len(tokens)
    finally:
        hierarchy.measure_contributions = False
    return [
        Path(name, text, gate_D, sums[f"contribution/{name}"] / count)
        for name, text, gate_D in _paths(hierarchy)
        if f"contribution/{name}" in sums
    ]


def _paths(hierarchy: Hierarchy) -> list[tuple[str, str, Tensor | None]]:
    """Name, description and gate of every path, in the order of execution."""
    names = [level.name for level in hierarchy.config.levels]
    paths: list[tuple[str, str, Tensor | None]] = []
    for index in reversed(range(len(names) - 1)):
        fine, coarse = names[index], names[index + 1]
        if len(hierarchy.down):
            paths.append((f"down/{fine}", f"{coarse} down to {fine}", _gate(hierarchy.down[index])))
        if len(hierarchy.top_down):
            paths.append((f"top_down/{fine}", f"{coarse} unpooled to {fine}", None))
    for index in range(len(names) - 1):
        if len(hierarchy.up):
            text = f"{names[index]} up to {names[index + 1]}"
            paths.append((f"up/{names[index + 1]}", text, _gate(hierarchy.up[index])))
    return paths


def _gate(cross: CrossAttention) -> Tensor:
    return cross.gate_D.detach().float().cpu()


def draw_paths(paths: list[Path]) -> Figure:
    """Bars of gates and contributions."""
    figure, grid = panels(1, 2, width=3.9, height=0.9 + 0.32 * len(paths))
    ys = np.arange(len(paths))[::-1]
    gates, adds = grid[0]
    for y, path in zip(ys, paths, strict=True):
        if path.gate_D is not None and path.gate is not None:
            low, high = path.gate_D.abs().quantile(torch.tensor([0.1, 0.9])).tolist()
            gates.barh(y, path.gate, height=0.6, color=GREY if path.shut else BLUE)
            gates.hlines(y, low, high, color="black", linewidth=1)
        else:
            gates.text(0.001, y, " no gate", va="center", color=GREY, fontsize=8)
        adds.barh(y, 100 * path.contribution, height=0.6, color=GREY if path.shut else ORANGE)
        adds.text(100 * path.contribution, y, f" {path.contribution:.1%}", va="center", fontsize=8)
    gates.axvline(GATE, color=GREY, linestyle="--", linewidth=0.9)
    gates.set_yticks(ys, [path.text for path in paths])
    gates.set_xlabel("|gate|  (dashed: start)")
    gates.set_xlim(left=0)
    adds.set_yticks([])
    adds.set_xlabel("adds, % of the tokens' norm")
    adds.margins(x=0.2)
    for axes in (gates, adds):
        axes.set_ylim(-0.6, len(paths) - 0.4)
    return figure
