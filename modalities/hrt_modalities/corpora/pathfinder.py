"""Pictures of the Pathfinder task: are two markers joined by one dashed contour?

The rules are those of the public generator (github.com/drewlinsley/pathfinder, arXiv 1805.08315) with the settings that
Long Range Arena names for its hard variant (arXiv 2011.04006): two contours of 14 dashes and five brighter distractors
of 4 dashes in 32 x 32 pixels, which keep a distance from each other. Many pictures are drawn at once: coordinates are
whole pixels and dashes have few orientations, so each dash is one of a table of small templates.

Shapes: N pictures, S = 32 rows and columns, T rows and columns of a template, K candidates for the end of a dash.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrt_mm.core.extras import needs_extra

SIZE = 32
PADDING, CONTOUR, DISTRACTOR, DISTRACTORS = 1, 14, 4, 5
"""Free border in pixels; dashes of a contour and of a distractor; distractors of a picture."""
LENGTH, MARGIN, SEED_DISTANCE = 2, 1, 7
"""Pixels: of a dash, between dashes, and between the first dashes of the two contours."""
RADIUS, SCALE = 1.5, 2
"""Radius of a marker in pixels; factor of the canvas on which dashes and markers are drawn before they are shrunk."""
DISTRACTOR_CONTRAST, CONTOUR_CONTRAST = 2.0, 1.5
DASH_TRIALS, SEED_TRIALS = 3, 3
"""How often a dash, and the first dash of a contour, are tried."""
DISTRACTOR_SHARE = 0.47
"""Probability that a distractor is tried. With it, pictures have as many distractors as those of the original, 1.2 on
average; five that are all tried would be 2.2."""
OCCUPIED, OVERLAP, LEAST_FREE = 0.3, 1.8, 0.01
"""Mask values above which a pixel is taken and two masks collide; share of free pixels that a distractor needs."""
HALF = LENGTH + 1 + MARGIN
"""Pixels from the middle of a template to its border."""
REACH = LENGTH + MARGIN
"""Pixels from the end of one gap to the next."""
_EDGE = HALF + SIZE + HALF
Grid = NDArray[Any]


@dataclass(frozen=True)
class Templates:
    """Dashes that begin in the middle of a template.

    Args:
        ink: (A, T, T) brightness, by orientation.
        mask: (A, T, T) pixels that the dash and its margin occupy, in 0..1.
    """

    ink: Grid
    mask: Grid


def _shrunk(canvas: Grid, size: int) -> Grid:
    """A picture at another size, stretched to 0..1 before."""
    from PIL import Image

    low, high = canvas.min(), canvas.max()
    stretched = np.round((canvas - low) / (high - low) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(stretched).resize((size, size), Image.Resampling.LANCZOS)) / 255


def _dilated(canvas: Grid, radius: int) -> Grid:
    padded = np.pad(canvas, radius)
    offsets = range(-radius, radius + 1)
    rows, columns = canvas.shape
    shifted = [
        padded[radius + dy : radius + dy + rows, radius + dx : radius + dx + columns]
        for dy in offsets
        for dx in offsets
        if dy * dy + dx * dx <= radius * radius
    ]
    return np.maximum.reduce(shifted)


def templates(angles: Grid) -> Templates:
    """Dashes of some orientations.

    Args:
        angles: (A,) in radians.
    """
    with needs_extra("vision"):
        from PIL import Image, ImageDraw

    side, ink, mask = HALF * SCALE * 2 + 1, [], []
    middle = HALF * SCALE
    for angle in angles:
        canvas = Image.new("L", (side, side))
        y, x = _moved(middle, middle, angle, LENGTH * SCALE)
        ImageDraw.Draw(canvas).line([(middle, middle), (int(x), int(y))], fill=255, width=1)
        drawn = np.asarray(canvas)
        ink.append(_shrunk(drawn, 2 * HALF + 1))
        mask.append(_shrunk(_dilated(drawn, MARGIN * SCALE), 2 * HALF + 1))
    return Templates(np.stack(ink).astype(np.float32), np.stack(mask).astype(np.float32))


def marker() -> Grid:
    """(T, T) brightness of a marker."""
    side = SIZE * SCALE
    y, x = np.ogrid[-side // 2 : side // 2, -side // 2 : side // 2]
    disc = _shrunk((y * y + x * x <= (RADIUS * SCALE) ** 2).astype(np.uint8), SIZE)
    middle = SIZE // 2
    return disc[middle - HALF : middle + HALF + 1, middle - HALF : middle + HALF + 1].astype(np.float32)


def _moved(y: Grid | int, x: Grid | int, angle: Grid, distance: float) -> tuple[Grid, Grid]:
    """Pixels at a distance, rounded up as the original rounds."""
    return (
        np.ceil(y + distance * np.sin(angle)).astype(np.int64),
        np.ceil(x + distance * np.cos(angle)).astype(np.int64),
    )


DEGREES = np.arange(-180, 180) * np.pi / 180
"""Orientations of first dashes."""


def _ends() -> tuple[Grid, Grid, Grid]:
    """Candidates for the end of a dash around its start: (K,) rows, columns and orientations."""
    angles = np.arange(0, 360, 360 / (2 * REACH * np.pi)) * np.pi / 180
    offsets = np.unique(
        np.floor(np.stack([REACH * np.sin(angles), REACH * np.cos(angles)], 1)).astype(np.int64), axis=0
    )
    rows, columns = offsets.T
    return rows, columns, np.arctan2(rows, columns)


@cache
def _stamps() -> tuple[Templates, Templates, Grid]:
    """Dashes towards each candidate, first dashes by degree, and the marker."""
    _, _, angles = _ends()
    # A dash is drawn from its end back to its start.
    return templates(np.where(angles < 0, angles + np.pi, angles - np.pi)), templates(DEGREES), marker()


class Canvases:
    """Pictures that are drawn at the same time. Arrays have a border of ``HALF`` pixels that nothing is read from.

    Args:
        count: number of pictures.
        random: source of random numbers.
    """

    rows, columns, angles = _ends()
    _around = np.arange(-HALF, HALF + 1)

    def __init__(self, count: int, random: np.random.Generator) -> None:
        self.random = random
        self.extending, self.seeding, self.disc = _stamps()
        self.ink = np.zeros((count, _EDGE, _EDGE), np.float32)
        self.mask = np.zeros((count, _EDGE, _EDGE), np.float32)
        inside = slice(HALF + PADDING, HALF + SIZE - PADDING)
        border = np.ones((_EDGE, _EDGE), np.float32)
        border[inside, inside] = 0
        self.mask[:] = border

    def patch(self, chosen: Grid, y: Grid, x: Grid) -> tuple[Grid, Grid, Grid]:
        """Indices of the template around a pixel in each of some pictures."""
        ys, xs = (y + HALF)[:, None] + self._around, (x + HALF)[:, None] + self._around
        return chosen[:, None, None], ys[:, :, None], xs[:, None, :]

    def paint(self, canvas: Grid, chosen: Grid, y: Grid, x: Grid, what: Grid) -> None:
        """Brightens some pictures by a template each."""
        at = self.patch(chosen, y, x)
        canvas[at] = np.maximum(canvas[at], what)

    def candidates(self, chosen: Grid, y: Grid, x: Grid, angle: Grid) -> Grid:
        """(n, K) cumulative probabilities of the candidates around some starts; the last is 0 where there is none.

        Contours go straight on most often: weights are the squared cosines of the turn.
        """
        ys, xs = y[:, None] + self.rows, x[:, None] + self.columns
        inside = (ys >= 0) & (ys < SIZE) & (xs >= 0) & (xs < SIZE)
        ys, xs = ys.clip(0, SIZE - 1) + HALF, xs.clip(0, SIZE - 1) + HALF
        whose = chosen[:, None]
        taken = np.maximum.reduce(
            [self.mask[whose, ys + dy, xs + dx] for dy, dx in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))]
        )
        turn = np.abs(self.angles - angle[:, None])
        turn = np.minimum(np.minimum(turn, 2 * np.pi - turn), np.pi / 2)
        weights = np.where(inside, (1 - taken) * np.cos(turn) ** 2, 0)
        total = weights.sum(1, keepdims=True)
        sums: Grid = np.cumsum(np.where(total < 1e-4, 0, weights / np.maximum(total, 1e-4)), 1)
        return sums


@dataclass
class Contours:
    """One growing contour in each of some pictures.

    Args:
        chosen: (n,) numbers of the pictures.
        pivot: (n,) rows and columns where the last dash started.
        angle: (n,) orientation of the last dash.
        last: (n, T, T) mask of the last dash, which is not in the picture's mask yet.
        at: (n,) rows and columns that the template lies around.
        alive: (n,) whether all dashes could be drawn.
    """

    chosen: Grid
    pivot: tuple[Grid, Grid]
    angle: Grid
    last: Grid
    at: tuple[Grid, Grid]
    alive: Grid

    def of(self, rows: Grid) -> Contours:
        """Those of some pictures.

        Args:
            rows: indices, or a mask.
        """
        return Contours(
            self.chosen[rows],
            (self.pivot[0][rows], self.pivot[1][rows]),
            self.angle[rows],
            self.last[rows],
            (self.at[0][rows], self.at[1][rows]),
            self.alive[rows],
        )

    def extend(self, canvases: Canvases, contrast: float) -> None:
        """Adds a dash to each contour that is alive."""
        y, x = _moved(*self.pivot, self.angle, LENGTH + 2 * MARGIN)
        sums = canvases.candidates(self.chosen, y, x, self.angle)
        possible = self.alive & (sums[:, -1] > 0)
        open_ = possible.copy()
        picked = np.zeros(len(self.chosen), np.int64)
        for _ in range(DASH_TRIALS):
            rows = np.flatnonzero(open_)
            if not len(rows):
                break
            picked[rows] = (sums[rows] > canvases.random.random((len(rows), 1))).argmax(1)
            ends = y[rows] + canvases.rows[picked[rows]], x[rows] + canvases.columns[picked[rows]]
            at = canvases.patch(self.chosen[rows], *ends)
            together = canvases.mask[at] + canvases.extending.mask[picked[rows]]
            open_[rows] = together.max((1, 2)) >= OVERLAP
        self.alive = possible & ~open_
        rows = np.flatnonzero(self.alive)
        ends = y + canvases.rows[picked], x + canvases.columns[picked]
        canvases.paint(
            canvases.ink,
            self.chosen[rows],
            ends[0][rows],
            ends[1][rows],
            canvases.extending.ink[picked[rows]] * contrast,
        )
        self.settle(canvases, rows)
        self.pivot, self.angle, self.last, self.at = (
            (y, x),
            canvases.angles[picked],
            canvases.extending.mask[picked],
            ends,
        )

    def settle(self, canvases: Canvases, rows: Grid) -> None:
        """Adds the last dash to the masks of some pictures."""
        canvases.paint(canvases.mask, self.chosen[rows], self.at[0][rows], self.at[1][rows], self.last[rows])


def _begun(canvases: Canvases, chosen: Grid, y: Grid, x: Grid, degree: Grid, contrast: float, alive: Grid) -> Contours:
    """Contours of one dash each, which starts at a pixel."""
    rows = np.flatnonzero(alive)
    ink, mask = canvases.seeding.ink[degree], canvases.seeding.mask[degree]
    canvases.paint(canvases.ink, chosen[rows], y[rows], x[rows], ink[rows] * contrast)
    angle = DEGREES[degree]
    head = _moved(y, x, angle, LENGTH)
    pivot = _moved(*head, np.where(angle < 0, angle + np.pi, angle - np.pi), LENGTH + MARGIN)
    return Contours(chosen, pivot, angle, mask, (y, x), alive)


def _inside(y: Grid, x: Grid, degree: Grid) -> Grid:
    """Whether a first dash and where it comes from lie in the picture."""
    angle = DEGREES[degree]
    head = _moved(y, x, angle, LENGTH)
    pivot = _moved(*head, np.where(angle < 0, angle + np.pi, angle - np.pi), LENGTH + MARGIN)
    ends = np.stack([*head, *pivot])
    return np.logical_and.reduce(np.logical_and(ends >= 0, ends < SIZE), axis=0)


def _free(canvases: Canvases, chosen: Grid, degree: Grid, border: int) -> Grid:
    """(n, S, S) whether a first dash of an orientation fits at a pixel.

    Args:
        canvases: the pictures.
        chosen: (n,) their numbers.
        degree: (n,) the orientations.
        border: pixels at each side that count as taken.
    """
    inner = slice(HALF, HALF + SIZE)
    mask = np.pad(canvases.mask[chosen, inner, inner], ((0, 0), (REACH, REACH), (REACH, REACH)))
    low, high = REACH + border, REACH + SIZE - border
    lines = np.ones(mask.shape[1:], bool)
    lines[:REACH] = lines[-REACH:] = lines[:, :REACH] = lines[:, -REACH:] = False
    lines[low:high, low:high] = False
    taken = np.logical_or(mask > OCCUPIED, lines)
    # The original places the dash one pixel off the middle of its window, and takes full pixels alone.
    side = 2 * REACH + 1
    window = np.zeros((len(DEGREES), side, side), bool)
    full = canvases.seeding.mask >= 1
    window[:, :, :] = full[:, HALF - REACH - 1 : HALF + REACH, HALF - REACH - 1 : HALF + REACH]
    free = np.ones((len(chosen), SIZE, SIZE), bool)
    for dy, dx in np.ndindex(side, side):
        using = window[degree, dy, dx]
        if using.any():
            free[using] &= np.logical_not(taken[using, dy : dy + SIZE, dx : dx + SIZE])
    return free


def _pixel(free: Grid, random: np.random.Generator) -> tuple[Grid, Grid, Grid]:
    """A random free pixel of each picture, and whether it has any."""
    flat = free.reshape(len(free), -1)
    counts = flat.sum(1)
    number = (random.random(len(free)) * counts).astype(np.int64)
    index = (np.cumsum(flat, 1) > number[:, None]).argmax(1)
    return index // SIZE, index % SIZE, counts > 0


def _first(canvases: Canvases, chosen: Grid, contrast: float, *, border: int, least_free: float = 0.0) -> Contours:
    """The first dash of a contour, at a free pixel of each picture."""
    random, count = canvases.random, len(chosen)
    y, x, degree = (np.zeros(count, np.int64) for _ in range(3))
    alive, open_ = np.zeros(count, bool), np.ones(count, bool)
    if least_free:
        inner = slice(HALF, HALF + SIZE)
        open_ = (canvases.mask[chosen, inner, inner] <= OCCUPIED).mean((1, 2)) >= least_free
    for _ in range(SEED_TRIALS):
        rows = np.flatnonzero(open_)
        if not len(rows):
            break
        degree[rows] = random.integers(0, len(DEGREES), len(rows))
        y[rows], x[rows], some = _pixel(_free(canvases, chosen[rows], degree[rows], border), random)
        good = some & _inside(y[rows], x[rows], degree[rows])
        alive[rows[good]] = True
        open_[rows] = some & ~good
    return _begun(canvases, chosen, y, x, degree, contrast, alive)


def _second(canvases: Canvases, first: Contours) -> Contours:
    """The first dash of the second contour, at a fixed distance from that of the first."""
    random, count = canvases.random, len(first.chosen)
    y, x, degree = (np.zeros(count, np.int64) for _ in range(3))
    alive, open_ = np.zeros(count, bool), first.alive.copy()
    for _ in range(SEED_TRIALS):
        rows = np.flatnonzero(open_)
        degree[rows] = random.integers(0, len(DEGREES), len(rows))
        towards = random.integers(0, 360, len(rows)) * np.pi / 180
        y[rows] = np.round(first.at[0][rows] + SEED_DISTANCE * np.sin(towards)).astype(np.int64)
        x[rows] = np.round(first.at[1][rows] + SEED_DISTANCE * np.cos(towards)).astype(np.int64)
        good = _inside(y[rows], x[rows], degree[rows])
        alive[rows[good]], open_[rows[good]] = True, False
    return _begun(canvases, first.chosen, y, x, degree, CONTOUR_CONTRAST, alive)


def _with_distractors(canvases: Canvases, chosen: Grid) -> None:
    for _ in range(DISTRACTORS):
        tried = chosen[canvases.random.random(len(chosen)) < DISTRACTOR_SHARE]
        before = canvases.ink[tried].copy(), canvases.mask[tried].copy()
        contour = _first(canvases, tried, DISTRACTOR_CONTRAST, border=1, least_free=LEAST_FREE)
        for _ in range(DISTRACTOR - 1):
            contour.extend(canvases, DISTRACTOR_CONTRAST)
        contour.settle(canvases, np.flatnonzero(contour.alive))
        failed = np.flatnonzero(~contour.alive)
        canvases.ink[tried[failed]], canvases.mask[tried[failed]] = before[0][failed], before[1][failed]


def pictures(attempts: int, random: np.random.Generator) -> tuple[Grid, Grid]:
    """Pictures of the hard variant, of which some cannot be completed and are left out.

    Args:
        attempts: number of pictures that are begun; about one in fifty is completed.
        random: source of random numbers.

    Returns:
        (N, S, S) uint8 brightness, and (N,) whether the markers lie on one contour.
    """
    canvases, everyone = Canvases(attempts, random), np.arange(attempts)
    first = _first(canvases, everyone, CONTOUR_CONTRAST, border=2 * SEED_DISTANCE)
    second = _second(canvases, first)
    contours = [one.of(second.alive) for one in (first, second)]
    origins = [one.at for one in contours]
    for _ in range(CONTOUR - 1):
        for contour in contours:
            contour.extend(canvases, CONTOUR_CONTRAST)
        # Most pictures fail early, and cost nothing from then on.
        alive = contours[0].alive & contours[1].alive
        contours = [contour.of(alive) for contour in contours]
        origins = [(y[alive], x[alive]) for y, x in origins]
    chosen = contours[0].chosen
    contours[1].settle(canvases, np.arange(len(chosen)))
    _with_distractors(canvases, chosen)

    connected = random.integers(0, 2, len(chosen)).astype(bool)
    origin = random.integers(0, 2, len(chosen))
    terminal = np.where(connected, origin, 1 - origin)
    for ends, whose in ((origins, origin), ([contour.at for contour in contours], terminal)):
        y, x = (np.stack([end[axis] for end in ends])[whose, np.arange(len(chosen))] for axis in (0, 1))
        canvases.paint(canvases.ink, chosen, y, x, canvases.disc)
    inner = slice(HALF, HALF + SIZE)
    ink = canvases.ink[chosen, inner, inner]
    peak = ink.max((1, 2), keepdims=True)
    return np.round(ink / np.maximum(peak, 1e-6) * 255).astype(np.uint8), connected
