"""Renders edited videos: shots of moving objects, joined by cuts, fades and wipes at known times.

Objects are pieces of scikit-learn's two sample photographs (china and flower), or drawn shapes; backgrounds are pieces
of a photograph, or colour gradients. Videos are written as H.264 in mp4.

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
"""Actions of the object of a shot."""
TRANSITIONS = ("cuts", "fades", "wipes")
"""Transitions between shots: immediate, a cross-fade or a fade through black, or behind a moving edge."""
_TEST_SHARE = 0.3
"""Fraction of the photographs, at their right, that only the test split shows."""
_RIM, _PALE = 1, (240, 240, 240)
"""Width of an object's outline in pixels, and its colour."""
_SUPERSAMPLING = 2
"""Factor by which objects are drawn larger and scaled down, for motion by fractions of a pixel."""


@dataclass(frozen=True)
class Shot:
    """A shot.

    Args:
        action: one of ``ACTIONS``, or another name of the content.
        seconds: duration, from the middle of the transition before it to the middle of the one after.
    """

    action: str
    seconds: float

    def take(self, size: tuple[int, int], held_out: bool, draw: np.random.Generator) -> Take:
        """Its content, rendered.

        Args:
            size: rows and columns.
            held_out: whether to use the pictures of the test split.
            draw: draws everything else.
        """
        return Drawn.at_random(self, size, held_out, draw)


@dataclass(frozen=True)
class Edit:
    """A video to be rendered.

    Args:
        shots: in order.
        transitions: between the shots, each one of ``TRANSITIONS``.
        lengths: of the transitions in seconds; 0 for cuts.
        seed: of everything else: pictures, positions, sizes, colours.
        held_out: whether to use the pictures of the test split.
    """

    shots: tuple[Shot, ...]
    transitions: tuple[str, ...]
    lengths: tuple[float, ...]
    seed: int
    held_out: bool = False

    @property
    def seconds(self) -> float:
        """Duration of the video."""
        return sum(shot.seconds for shot in self.shots)

    @property
    def starts(self) -> tuple[float, ...]:
        """Start times of shots in seconds, at the middles of transitions."""
        starts, start = [], 0.0
        for shot in self.shots:
            starts.append(round(start, 6))
            start += shot.seconds
        return tuple(starts)

    def by_kind(self) -> dict[str, tuple[float, ...]]:
        """Start times of shots by the transition before them."""
        pairs = list(zip(self.starts[1:], self.transitions, strict=True))
        return {kind: tuple(start for start, start_kind in pairs if start_kind == kind) for kind in TRANSITIONS}


class Take(Protocol):
    """The content of a shot."""

    def at(self, time: float) -> np.ndarray:
        """(H, W, 3) float: the picture at a time from the start of the shot.

        In transitions, the time may be before the start or after the end.
        """
        ...


def render(edit: Edit, rate: float, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The frames of a video, (H, W, 3) uint8.

    Args:
        edit: its shots and transitions.
        rate: frames per second.
        size: rows and columns.
    """
    draw = np.random.default_rng(edit.seed)
    return joined([shot.take(size, edit.held_out, draw) for shot in edit.shots], edit, rate, draw)


def joined(takes: Sequence[Take], edit: Edit, rate: float, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """The frames of takes with their transitions, (H, W, 3) uint8.

    Args:
        takes: of the shots.
        edit: the shots and transitions.
        rate: frames per second.
        draw: draws which fades go through black, and the directions of wipes.
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
                    # The edge is perpendicular to the angle, and moves across the whole picture.
                    rows, columns = (np.arange(length) for length in first.shape[:2])
                    across = columns[None] * math.cos(angles[border]) + rows[:, None] * math.sin(angles[border])
                    edge = across.min() + done * (across.max() - across.min())
                    picture = np.where((across < edge)[..., None], second, first)
                elif through_black[border]:
                    picture = first * max(0.0, 1 - 2 * done) + second * max(0.0, 2 * done - 1)
                else:
                    picture = first * (1 - done) + second * done
        yield np.clip(np.round(picture), 0, 255).astype(np.uint8)


def write(
    path: Path | BytesIO,
    frames: Iterator[np.ndarray],
    rate: float | Fraction,
    size: tuple[int, int],
    options: dict[str, str],
) -> None:
    """Writes frames as H.264, in the container of the file's suffix, or in mp4 to memory.

    Args:
        path: the file.
        frames: (H, W, 3) uint8.
        rate: frames per second.
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
    """A shot of an object over a background.

    Args:
        shot: the action and its duration.
        ground: (H, W, 3) background.
        thing: draws the object as an RGBA picture with a given side in pixels.
        draw: draws its size, position and motion.
        radius: least and largest radius of the object, as fractions of the shorter side.
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
        self.thing = thing(round(self.radius * 2 * _SUPERSAMPLING))
        # The middle and the length of its path, which stays inside the picture during the shot.
        self.middle = np.array([length * draw.uniform(0.42, 0.58) for length in size])
        self.way = side * draw.uniform(0.35, 0.6)
        self.angle = draw.uniform(0, 360)
        self.turn = draw.uniform(100, 220)
        self.scale = draw.uniform(2.0, 2.8)

    @classmethod
    def at_random(cls, shot: Shot, size: tuple[int, int], held_out: bool, draw: np.random.Generator) -> Drawn:
        """A shot of a random object over a random background.

        Args:
            shot: the action and its duration.
            size: rows and columns.
            held_out: whether to use the pictures of the test split.
            draw: draws everything else.
        """
        return cls(shot, _ground(size, held_out, draw), lambda side: thing(side, held_out, draw), draw)

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
        shrink = _SUPERSAMPLING / scale
        cos, sin = math.cos(math.radians(angle)) * shrink, math.sin(math.radians(angle)) * shrink
        # The inverse map, from positions in the picture to positions in the object, rotated about its centre.
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


def _ground(size: tuple[int, int], held_out: bool, draw: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32 background."""
    if draw.random() < 0.6:
        return piece(size, draw.uniform(0.3, 0.9), held_out, draw) * draw.uniform(0.5, 1.0)
    return shaded(size, draw)


def shaded(size: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32 gradient between two colours."""
    colours = draw.uniform(20, 235, (2, 3))
    ramp = np.linspace(0, 1, size[draw.integers(2)])
    share = ramp[:, None] if len(ramp) == size[0] else ramp[None]
    share = np.broadcast_to(share, size)[..., None]
    blend: np.ndarray = (colours[0] * (1 - share) + colours[1] * share).astype(np.float32)
    return blend


def thing(side: int, held_out: bool, draw: np.random.Generator, rim: int = _RIM) -> Image.Image:
    """An object: an RGBA picture, transparent around its shape, with a pale outline like a sticker.

    Without the outline, object and background could not be distinguished where both are textures.

    Args:
        side: of the picture in pixels.
        held_out: whether to use the pictures of the test split.
        draw: draws the object.
        rim: width of the outline in pixels.
    """
    with needs_extra("video"):
        from PIL import Image, ImageDraw, ImageFilter

    if draw.random() < 0.5:
        pixels = piece((side, side), draw.uniform(0.2, 0.5), held_out, draw)
    else:
        # Halves in different colours make its rotation visible.
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
    # Pillow's filter of one pixel divides by zero.
    outlined = mask.filter(ImageFilter.MaxFilter(2 * rim * _SUPERSAMPLING + 1)) if rim else mask
    picture = Image.new("RGBA", (side, side), _PALE)
    picture.paste(Image.fromarray(pixels.astype(np.uint8), "RGB"), mask=mask)
    picture.putalpha(outlined)
    return picture


def piece(size: Sequence[int], share: float, held_out: bool, draw: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32: a piece of a photograph, scaled to a size."""
    from PIL import Image

    photograph = _photographs()[draw.integers(2)]
    border = round(photograph.width * (1 - _TEST_SHARE))
    left, right = (border, photograph.width) if held_out else (0, border)
    high = photograph.height * share
    wide = high * size[1] / size[0]
    if wide > right - left:
        wide, high = float(right - left), (right - left) * size[0] / size[1]
    x, y = draw.uniform(left, right - wide), draw.uniform(0, photograph.height - high)
    piece = photograph.resize((size[1], size[0]), Image.Resampling.BOX, (x, y, x + wide, y + high))
    # Random flips and permuted colours, because there are only two photographs.
    rows, columns = (int(step) for step in draw.choice([-1, 1], 2))
    return np.asarray(piece, dtype=np.float32)[::rows, ::columns, draw.permutation(3)]


@cache
def _photographs() -> tuple[Image.Image, ...]:
    with needs_extra("video"):
        from sklearn.datasets import load_sample_image

    from PIL import Image

    return tuple(Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))
