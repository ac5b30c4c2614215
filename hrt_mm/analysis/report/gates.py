"""Section: what the paths between levels add, and which of them stayed shut."""

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
"""Samples that contributions are measured on."""
SHUT_GATE = GATE / 4
"""A path whose gate is under this, in the mean over channels, is shut."""
SHUT_CONTRIBUTION = 0.01
"""A path that adds less than this, over the norm of what it adds to, is shut."""


@dataclass(frozen=True, eq=False)
class Path:
    """A path between two levels.

    Args:
        name: its place among the hierarchy's stats.
        text: in words.
        gate_D: its gate; ``None`` where it has none.
        contribution: norm of what it adds, over the norm of what it adds to.
    """

    name: str
    text: str
    gate_D: Tensor | None
    contribution: float

    @property
    def gate(self) -> float | None:
        """Mean size of the gate."""
        return None if self.gate_D is None else float(self.gate_D.abs().mean())

    @property
    def shut(self) -> str | None:
        """Why the path counts as shut; ``None`` for an open one."""
        if self.gate is not None and self.gate < SHUT_GATE:
            return f"its gate is {self.gate:.2g} in the mean, below {SHUT_GATE:g}"
        if self.contribution < SHUT_CONTRIBUTION:
            return f"it adds {self.contribution:.2%}, below {SHUT_CONTRIBUTION:.0%}"
        return None


def gates_section(subject: Subject, page: Page) -> None:
    """Measures and draws the paths between levels."""
    assert subject.encoder is not None
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
            (path.text, "-" if path.gate is None else f"{path.gate:.3g}", f"{path.contribution:.1%}", _state(path))
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


def _state(path: Path) -> str:
    return "shut" if path.shut else "open"


def measure_paths(subject: Subject, encoder: Encoder) -> list[Path]:
    """The paths of the hierarchy, with what they add on some samples."""
    hierarchy = encoder.hierarchy
    sums: dict[str, float] = {}
    count = 0
    hierarchy.measure_contributions = True
    try:
        for tokens in subject.packs(SAMPLES):
            for name, value in encoder(tokens).stats.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(tokens)
            count += len(tokens)
    finally:
        hierarchy.measure_contributions = False
    return [
        Path(name, text, gate_D, sums[f"contribution/{name}"] / count)
        for name, text, gate_D in _known(hierarchy)
        if f"contribution/{name}" in sums
    ]


def _known(hierarchy: Hierarchy) -> list[tuple[str, str, Tensor | None]]:
    """Name, text and gate of every path, in the order in which they run."""
    names = [level.name for level in hierarchy.config.levels]
    found: list[tuple[str, str, Tensor | None]] = []
    for index in reversed(range(len(names) - 1)):
        fine, coarse = names[index], names[index + 1]
        if len(hierarchy.down):
            found.append((f"down/{fine}", f"{coarse} down to {fine}", _gate(hierarchy.down[index])))
        if len(hierarchy.top_down):
            found.append((f"top_down/{fine}", f"{coarse} unpooled to {fine}", None))
    for index in range(len(names) - 1):
        if len(hierarchy.up):
            text = f"{names[index]} up to {names[index + 1]}"
            found.append((f"up/{names[index + 1]}", text, _gate(hierarchy.up[index])))
    return found


def _gate(cross: torch.nn.Module) -> Tensor:
    assert isinstance(cross, CrossAttention)
    return cross.gate_D.detach().float().cpu()


def draw_paths(paths: list[Path]) -> Figure:
    """Bars of gates and contributions."""
    figure, grid = panels(1, 2, width=3.9, height=0.9 + 0.32 * len(paths))
    places = np.arange(len(paths))[::-1]
    gates, adds = grid[0]
    for place, path in zip(places, paths, strict=True):
        if path.gate_D is not None and path.gate is not None:
            low, high = path.gate_D.abs().quantile(torch.tensor([0.1, 0.9])).tolist()
            gates.barh(place, path.gate, height=0.6, color=GREY if path.shut else BLUE)
            gates.hlines(place, low, high, color="black", linewidth=1)
        else:
            gates.text(0.001, place, " no gate", va="center", color=GREY, fontsize=8)
        adds.barh(place, 100 * path.contribution, height=0.6, color=GREY if path.shut else ORANGE)
        adds.text(100 * path.contribution, place, f" {path.contribution:.1%}", va="center", fontsize=8)
    gates.axvline(GATE, color=GREY, linestyle="--", linewidth=0.9)
    gates.set_yticks(places, [path.text for path in paths])
    gates.set_xlabel("|gate|  (dashed: start)")
    gates.set_xlim(left=0)
    adds.set_yticks([])
    adds.set_xlabel("adds, % of the tokens' norm")
    adds.margins(x=0.2)
    for axes in (gates, adds):
        axes.set_ylim(-0.6, len(paths) - 0.4)
    return figure
