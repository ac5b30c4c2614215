"""Rendered graphics: hard-edged tiles as a background, and counters, dials and progress bars over a picture.

Screens, titles and test cards move and change in other ways than photographs do. Edges that pass without end look like
wipes to a model that saw none.

Shapes: H rows, W columns.
"""

from __future__ import annotations

import math

import numpy as np

_COLUMNS = 8
"""Cells of a counter or a progress bar from left to right."""


def tiles(size: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32: stripes or tiles of flat colours."""
    axis, both = int(draw.integers(2)), draw.random() < 0.3
    counts = [1, 1]
    counts[axis] = int(draw.integers(4, 16))
    counts[1 - axis] = int(draw.integers(2, 8)) if both else 1
    colours = draw.uniform(0, 255, (*counts, 3))
    if draw.random() < 0.6:
        colours = np.where(colours > 127, 235.0, 10.0)
    # Edges at random positions, as few things are all as wide.
    rows, columns = (
        np.searchsorted(np.sort(draw.uniform(0, length, count - 1)), np.arange(length))
        for count, length in zip(counts, size, strict=True)
    )
    return np.asarray(colours[rows][:, columns], dtype=np.float32)


class Overlay:
    """A counter, a dial or a progress bar that stays where it is and changes all the time.

    Args:
        size: rows and columns of the picture.
        draw: draws its kind, position, colours and speed.
    """

    def __init__(self, size: tuple[int, int], draw: np.random.Generator) -> None:
        side = min(size)
        self.kind = str(draw.choice(["counter", "dial", "progress"]))
        height = max(3, round(side * draw.uniform(0.1, 0.35)))
        width = height if self.kind == "dial" else min(size[1], round(side * draw.uniform(0.4, 1.4)))
        self.corner = int(draw.integers(size[0] - height + 1)), int(draw.integers(size[1] - width + 1))
        self.shape = height, width
        self.period = draw.uniform(0.4, 2.0)
        self.colours = draw.permutation(np.array([[15.0] * 3, draw.uniform(60, 255, 3)]))
        self.cells = draw.random((32, 2, _COLUMNS)) < 0.5

    def over(self, picture: np.ndarray, time: float) -> np.ndarray:
        """(H, W, 3) float: a copy of the picture with it at a time."""
        turn, done = divmod(time / self.period, 1.0)
        rows, columns = (np.arange(length) for length in self.shape)
        inside = np.ones(self.shape, dtype=bool)
        if self.kind == "dial":
            row, column = rows[:, None] - (len(rows) - 1) / 2, columns - (len(columns) - 1) / 2
            inside = np.hypot(row, column) <= len(rows) / 2
            # Its colours are exchanged each time that it is full.
            lit = ((np.arctan2(column, -row) / (2 * math.pi)) % 1.0 < done) ^ bool(turn % 2)
        elif self.kind == "progress":
            lit = np.broadcast_to((columns * _COLUMNS // len(columns)) / _COLUMNS < done, self.shape)
        else:
            cells = self.cells[int(time * _COLUMNS / self.period) % len(self.cells)]
            lit = cells[rows * 2 // len(rows)][:, columns * _COLUMNS // len(columns)]
        picture = picture.copy()
        (top, left), (height, width) = self.corner, self.shape
        part = picture[top : top + height, left : left + width]
        part[inside] = self.colours[lit.astype(np.int64)][inside]
        return picture
