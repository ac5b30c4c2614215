"""Renders edited videos: shots in which a thing does something, joined by cuts, fades and wipes at known times.

Pictures are scikit-learn's two sample photographs, china and flower: what moves is a piece of one or a drawn shape, and
what it moves over is a piece of one or a blend of colours. Written as H.264, in mp4 files that any player shows.

Shapes: H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hrt_mm.core.extras import needs_extra

if TYPE_CHECKING:
    from PIL import Image

ACTIONS = ("left", "right", "up", "down", "grow", "shrink", "turn_left", "turn_right", "appear", "vanish")
"""What a thing does in a shot."""
TRANSITIONS = ("cuts", "fades", "wipes")
"""How one shot becomes the next: at once, mixed or through black, or behind a border that moves over the picture."""
_HELD_OUT = 0.3
"""Part of the photographs, at their right, that is for the test alone."""
_RIM, _PALE = 1, (240, 240, 240)
"""Width of a thing's rim in pixels, and its colour."""
_FINE = 2
"""Things are drawn this many times as large, and scaled down, so that they move by less than a pixel."""


@dataclass(frozen=True)
class Shot:
    """One take.

    Args:
        action: one of ``ACTIONS``, or the name of what else is shown.
        seconds: from the middle of the transition before it to the middle of the one after.
    """

    action: str
    seconds: float


@dataclass(frozen=True)
class Edit:
    """A video to be rendered.

    Args:
        shots: one after another.
        transitions: between them, one of ``TRANSITIONS`` each.
        lengths: seconds of the transitions; 0 for cuts.
        seed: draws all else: pictures, places, sizes, colours.
        held_out: whether pictures are those of the test.
    """

    shots: tuple[Shot, ...]
    transitions: tuple[str, ...]
    lengths: tuple[float, ...]
    seed: int
    held_out: bool = False

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return sum(shot.seconds for shot in self.shots)

    @property
    def starts(self) -> tuple[float, ...]:
        """Seconds at which shots start, the middles of transitions."""
        starts, at = [], 0.0
        for shot in self.shots:
            starts.append(round(at, 6))
            at += shot.seconds
        return tuple(starts)

    def by_kind(self) -> dict[str, tuple[float, ...]]:
        """Starts of shots by the transition that leads there."""
        pairs = list(zip(self.starts[1:], self.transitions, strict=True))
        return {kind: tuple(start for start, start_kind in pairs if start_kind == kind) for kind in TRANSITIONS}


class Take(Protocol):
    """What a shot shows."""

    def at(self, time: float) -> np.ndarray:
        """(H, W, 3) float: the picture at a time from the start of the shot.

        Transitions show what lies before the start and after the end as well.
        """
        ...


def render(edit: Edit, rate: float, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The frames of a video, (H, W, 3) uint8.

    Args:
        edit: what it shows.
        rate: frames a second.
        size: rows and columns.
    """
    draw = np.random.default_rng(edit.seed)
    return joined([Drawn.at_random(shot, size, edit.held_out, draw) for shot in edit.shots], edit, rate, draw)


def joined(takes: Sequence[Take], edit: Edit, rate: float, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """Takes with their transitions, frame by frame, (H, W, 3) uint8.

    Args:
        takes: what each shot shows.
        edit: how they are joined.
        rate: frames a second.
        draw: draws which fades go through black, and where wipes come from.
    """
    through_black = draw.random(len(edit.transitions)) < 0.3
    angles = draw.uniform(0, 2 * math.pi, len(edit.transitions))
    starts = edit.starts
    for number in range(round(edit.seconds * rate)):
        time = number / rate
        current = max(index for index, start in enumerate(starts) if start <= time + 1e-9)
        picture = takes[current].at(time - starts[current])
        for border in (current - 1, current):
            if not 0 <= border < len(edit.transitions):
                continue
            middle, length = starts[border + 1], edit.lengths[border]
            if length and abs(time - middle) < length / 2:
                first, second = (takes[border + side].at(time - starts[border + side]) for side in (0, 1))
                done = (time - middle) / length + 0.5
                if edit.transitions[border] == "wipes":
                    picture = _wiped(first, second, done, angles[border])
                else:
                    picture = _mixed(first, second, done, bool(through_black[border]))
        yield np.clip(np.round(picture), 0, 255).astype(np.uint8)


def write(
    path: Path | BytesIO,
    frames: Iterator[np.ndarray],
    rate: float | Fraction,
    size: tuple[int, int],
    options: dict[str, str],
) -> None:
    """Writes frames as H.264 in a container that the file's name tells; in mp4 where it is in memory.

    Args:
        path: the file.
        frames: (H, W, 3) uint8.
        rate: frames a second.
        size: rows and columns.
        options: of the encoder.
    """
    with needs_extra("video"):
        import av

    target, kind = (str(path), None) if isinstance(path, Path) else (path, "mp4")
    with av.open(target, "w", format=kind) as container:
        # For the same bytes each time: with AVX-512 the macroblock tree of libx264 reads memory that it has not written
        # where frames are this small, and more threads give other bytes.
        options = {"x264-params": "mbtree=0"} | options
        stream: Any = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000), options=options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


class Drawn:
    """A shot with all that is drawn for it.

    Args:
        shot: what happens.
        ground: (H, W, 3) what the thing moves over.
        thing: draws it, an RGBA picture of a side in pixels.
        draw: draws how large it is, where it begins and how far it goes.
        radius: of the thing, least and most, as a part of the shorter side.
    """

    def __init__(
        self,
        shot: Shot,
        ground: np.ndarray,
        thing: Callable[[int], Image.Image],
        draw: np.random.Generator,
        radius: tuple[float, float] = (0.22, 0.32),
    ) -> None:
        rows, columns = ground.shape[:2]
        self.shot, self.ground, self.size = shot, ground, (rows, columns)
        size, side = self.size, min(self.size)
        self.radius = side * draw.uniform(*radius)
        self.thing = thing(round(self.radius * 2 * _FINE))
        # The middle of the way that it goes, and how far: it stays in the picture as long as its shot lasts.
        self.middle = np.array([length * draw.uniform(0.42, 0.58) for length in size])
        self.way = side * draw.uniform(0.35, 0.6)
        self.angle = draw.uniform(0, 360)
        self.turn = draw.uniform(100, 220)
        self.scale = draw.uniform(2.0, 2.8)

    @classmethod
    def at_random(cls, shot: Shot, size: tuple[int, int], held_out: bool, draw: np.random.Generator) -> Drawn:
        """A shot of any thing over any ground.

        Args:
            shot: what happens.
            size: rows and columns.
            held_out: whether pictures are those of the test.
            draw: draws all else.
        """
        return cls(shot, _ground(size, held_out, draw), lambda side: _thing(side, held_out, draw), draw)

    def at(self, time: float) -> np.ndarray:
        """(H, W, 3) float: the picture at a time."""
        done = time / self.shot.seconds
        clipped = min(1.0, max(0.0, done))
        action = self.shot.action
        row, column = self.middle
        angle, scale, alpha = self.angle, 1.0, 1.0
        if action in ("left", "right"):
            column += (done - 0.5) * self.way * (1 if action == "right" else -1)
        elif action in ("up", "down"):
            row += (done - 0.5) * self.way * (1 if action == "down" else -1)
        elif action in ("grow", "shrink"):
            scale = self.scale ** ((clipped if action == "grow" else 1 - clipped) - 0.6)
        elif action in ("turn_left", "turn_right"):
            angle += done * self.turn * (1 if action == "turn_left" else -1)
        else:
            alpha = clipped if action == "appear" else 1 - clipped
        return self._with_thing(row, column, angle, scale, alpha)

    def _with_thing(self, row: float, column: float, angle: float, scale: float, alpha: float) -> np.ndarray:
        from PIL import Image

        side = self.thing.width
        shrink = _FINE / scale
        cos, sin = math.cos(math.radians(angle)) * shrink, math.sin(math.radians(angle)) * shrink
        # From a place in the picture back to the place in the thing that is seen there, turned about its middle.
        matrix = (
            cos, -sin, side / 2 - cos * column + sin * row,
            sin, cos, side / 2 - sin * column - cos * row,
        )  # fmt: skip
        placed = self.thing.transform(
            (self.size[1], self.size[0]), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
        layer = np.asarray(placed, dtype=np.float32)
        share = layer[..., 3:] * (alpha / 255)
        return self.ground * (1 - share) + layer[..., :3] * share


def _mixed(first: np.ndarray, second: np.ndarray, done: float, through_black: bool) -> np.ndarray:
    if through_black:
        return first * max(0.0, 1 - 2 * done) + second * max(0.0, 2 * done - 1)
    return first * (1 - done) + second * done


def _wiped(first: np.ndarray, second: np.ndarray, done: float, angle: float) -> np.ndarray:
    rows, columns = first.shape[:2]
    across = np.arange(columns)[None] * math.cos(angle) + np.arange(rows)[:, None] * math.sin(angle)
    border = across.min() + done * (across.max() - across.min())
    return np.where((across < border)[..., None], second, first)


def _ground(size: tuple[int, int], held_out: bool, draw: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32: what a thing moves over."""
    if draw.random() < 0.6:
        return _piece(size, draw.uniform(0.3, 0.9), held_out, draw) * draw.uniform(0.5, 1.0)
    colours = draw.uniform(20, 235, (2, 3))
    ramp = np.linspace(0, 1, size[draw.integers(2)])
    share = ramp[:, None] if len(ramp) == size[0] else ramp[None]
    share = np.broadcast_to(share, size)[..., None]
    blend: np.ndarray = (colours[0] * (1 - share) + colours[1] * share).astype(np.float32)
    return blend


def _thing(side: int, held_out: bool, draw: np.random.Generator) -> Image.Image:
    """What moves: an RGBA picture, transparent around its shape, with a pale rim as a sticker has.

    Without the rim nothing says which of two textures is the thing where one becomes the other.
    """
    with needs_extra("video"):
        from PIL import Image, ImageDraw, ImageFilter

    if draw.random() < 0.5:
        pixels = _piece((side, side), draw.uniform(0.2, 0.5), held_out, draw)
    else:
        # Halves of different colours, so that one sees it turn.
        pixels = np.empty((side, side, 3), np.float32)
        pixels[:, : side // 2], pixels[:, side // 2 :] = draw.uniform(0, 255, (2, 3))
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    kind = draw.integers(3)
    if kind == 0:
        pen.rectangle([side * 0.1, side * 0.25, side * 0.9, side * 0.75], fill=255)
    elif kind == 1:
        pen.polygon([(side * 0.5, 0), (side * 0.9, side * 0.95), (side * 0.1, side * 0.75)], fill=255)
    else:
        pen.ellipse([side * 0.02, side * 0.2, side * 0.98, side * 0.8], fill=255)
    rimmed = mask.filter(ImageFilter.MaxFilter(2 * _RIM * _FINE + 1))
    picture = Image.new("RGBA", (side, side), _PALE)
    picture.paste(Image.fromarray(pixels.astype(np.uint8), "RGB"), mask=mask)
    picture.putalpha(rimmed)
    return picture


def _piece(size: Sequence[int], share: float, held_out: bool, draw: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32: a piece of a photograph, scaled to a size."""
    from PIL import Image

    photograph = _photographs()[draw.integers(2)]
    border = round(photograph.width * (1 - _HELD_OUT))
    left, right = (border, photograph.width) if held_out else (0, border)
    high = photograph.height * share
    wide = high * size[1] / size[0]
    if wide > right - left:
        wide, high = float(right - left), (right - left) * size[0] / size[1]
    x, y = draw.uniform(left, right - wide), draw.uniform(0, photograph.height - high)
    piece = photograph.resize((size[1], size[0]), Image.Resampling.BOX, (x, y, x + wide, y + high))
    # Two photographs are few: mirrored and in other colours they are many.
    rows, columns = (int(step) for step in draw.choice([-1, 1], 2))
    return np.asarray(piece, dtype=np.float32)[::rows, ::columns, draw.permutation(3)]


@cache
def _photographs() -> tuple[Image.Image, ...]:
    with needs_extra("video"):
        from sklearn.datasets import load_sample_image

    from PIL import Image

    return tuple(Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))
