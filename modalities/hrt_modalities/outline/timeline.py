"""Draws the outline of a video: a timeline of its scenes, and a frame of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from hrt_mm.core.extras import needs_extra

from ..video.readers import VideoFile
from .outline import Scene

_PICTURES = 24
"""Limit of the frames; with more scenes, evenly spaced ones are drawn."""
_ROW = 8


def draw_outline(file: VideoFile, scenes: Sequence[Scene], path: Path) -> None:
    """Writes a figure.

    Args:
        file: the video.
        scenes: in order of time.
        path: of the figure, whose suffix gives its format.
    """
    with needs_extra("report"):
        from matplotlib.figure import Figure

    count = min(len(scenes), _PICTURES)
    selected = [scenes[number * len(scenes) // count] for number in range(count)]
    rows = max(1, -(-len(selected) // _ROW))
    figure = Figure(figsize=(12, 1.6 + 1.6 * rows), layout="constrained")
    grid = figure.add_gridspec(rows + 1, _ROW, height_ratios=[0.5, *[1.0] * rows])
    colours = _colours(scenes)
    _draw_bar(figure.add_subplot(grid[0, :]), scenes, colours, file.index.seconds)
    for index, scene in enumerate(selected):
        axes = figure.add_subplot(grid[1 + index // _ROW, index % _ROW])
        pixels = file.steady([file.index.at((scene.start + scene.end) / 2)])[0]
        axes.imshow(rearrange(pixels, "c h w -> h w c").numpy())
        axes.set_title(f"{scene.start:.1f} s {scene.label}", fontsize=7, color=colours[scene.label])
        axes.set_axis_off()
    figure.savefig(path, dpi=100)


def _draw_bar(axes: Any, scenes: Sequence[Scene], colours: dict[str, Any], seconds: float) -> None:
    for scene in scenes:
        axes.barh(0, scene.end - scene.start, left=scene.start, color=colours[scene.label], edgecolor="white")
    for label, colour in colours.items():
        if label:
            axes.barh(0, 0, color=colour, label=label)
    axes.set_xlim(0, seconds)
    axes.set_yticks([])
    axes.set_xlabel("seconds", fontsize=8)
    axes.tick_params(labelsize=7)
    if len(colours) > 1:
        axes.legend(ncols=10, fontsize=6, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)


def _colours(scenes: Sequence[Scene]) -> dict[str, Any]:
    with needs_extra("report"):
        from matplotlib import colormaps

    names = sorted({scene.label for scene in scenes if scene.label})
    palette = colormaps["tab20"](np.linspace(0, 1, 20))
    colours: dict[str, Any] = {name: palette[number % 20] for number, name in enumerate(names)}
    return {**colours, "": "#555555"}
