"""Rendered shots that look as if filmed by hand: all that changes in real films without a border between shots.

Without such shots, a model that learns borders from rendered video takes each large change for one.

Shapes: H rows, W columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .graphics import Overlay, tiles
from .rendering import Drawn, Shot, piece, shaded, thing

if TYPE_CHECKING:
    from PIL import Image

_ROOM = 1.9
"""Sides of the scenery in sides of the picture."""
_NOISE_RATE = 12.5
"""Random changes a second of what flickers."""


@dataclass(frozen=True)
class HandheldShot(Shot):
    """A shot with camera motion, zoom, changes of light, flicker, grain, graphics, and large things that pass by."""

    def take(self, size: tuple[int, int], held_out: bool, draw: np.random.Generator) -> Handheld:
        """Its content, rendered."""
        return Handheld(self, size, held_out, draw)


class Handheld(Drawn):
    """A handheld shot of an object, which the camera follows, over a background that moves.

    Args:
        shot: the action and its duration.
        size: rows and columns.
        held_out: whether to use the pictures of the test split.
        draw: draws everything else.
    """

    def __init__(self, shot: Shot, size: tuple[int, int], held_out: bool, draw: np.random.Generator) -> None:
        from PIL import Image

        super().__init__(shot, np.zeros((*size, 3), np.float32), lambda side: thing(side, held_out, draw), draw)
        rows, columns = (round(length * _ROOM) for length in size)
        scenery = _scenery((rows, columns), held_out, draw)
        self.scenery = Image.fromarray(np.clip(scenery, 0, 255).astype(np.uint8), "RGB")
        side = min(size)
        # Sides of the picture a second, rarely fast.
        self.pan = side * draw.uniform(-1, 1, 2) * draw.choice([0.0, 0.15, 0.5, 1.2], p=[0.25, 0.35, 0.25, 0.15])
        self.zoom = draw.uniform(-0.25, 0.25) if draw.random() < 0.4 else 0.0
        self.shake = side * draw.uniform(0, 0.04) if draw.random() < 0.6 else 0.0
        self.tremor = draw.uniform(0, 0.8) if draw.random() < 0.4 else 0.0
        self.beats = draw.uniform(0.5, 3.5, 3)
        self.phases = draw.uniform(0, 2 * math.pi, 4)
        self.glow = draw.uniform(0, 0.35) if draw.random() < 0.5 else 0.0
        self.flicker = draw.uniform(0.01, 0.1) if draw.random() < 0.4 else 0.0
        self.ramp = (draw.uniform(0, shot.seconds), draw.uniform(-0.7, 0.5) if draw.random() < 0.25 else 0.0)
        self.flash = draw.uniform(0, shot.seconds) if draw.random() < 0.1 else math.inf
        self.grain = draw.uniform(1, 10) if draw.random() < 0.5 else 0.0
        self.grey = draw.random() < 0.25
        self.noise = np.random.default_rng(draw.integers(2**63))
        self.jumps = draw.normal(size=(64, 3))
        self.passing = _Passing(size, shot.seconds, held_out, draw) if draw.random() < 0.35 else None
        self.overlays = [Overlay(size, draw) for _ in range(draw.integers(1, 5) if draw.random() < 0.2 else 0)]

    def at(self, time: float) -> np.ndarray:
        """(H, W, 3) float: the picture at a time."""
        self.ground = self._scenery_at(time)
        picture = super().at(time)
        if self.passing is not None:
            picture = self.passing.over(picture, time)
        for overlay in self.overlays:
            picture = overlay.over(picture, time)
        if self.grey:
            picture = np.broadcast_to(picture.mean(2, keepdims=True), picture.shape)
        picture = picture * self._light(time)
        if self.grain:
            picture = picture + self.noise.normal(0, self.grain, (*self.size, 1))
        return np.clip(picture, 0, 255)

    def _jump(self, time: float) -> np.ndarray:
        return self.jumps[int(time * _NOISE_RATE) % len(self.jumps)]

    def _scenery_at(self, time: float) -> np.ndarray:
        from PIL import Image

        rows, columns = self.size
        scale = math.exp(self.zoom * (time - self.shot.seconds / 2))
        jump = self._jump(time)
        moved = [
            self.pan[axis] * (time - self.shot.seconds / 2)
            + self.shake * math.sin(self.beats[axis] * 2 * math.pi * time + self.phases[axis])
            + self.tremor * jump[axis]
            for axis in (0, 1)
        ]
        # A pan that reaches the edge of the scenery turns around there.
        corner = [
            _mirrored(moved[axis] + (whole - length * scale) / 2, whole - length * scale)
            for axis, (whole, length) in enumerate(zip(self.scenery.size[::-1], self.size, strict=True))
        ]
        box = (scale, 0, corner[1], 0, scale, corner[0])
        crop = self.scenery.transform((columns, rows), Image.Transform.AFFINE, box, Image.Resampling.BILINEAR)
        return np.asarray(crop, dtype=np.float32)

    def _light(self, time: float) -> float:
        start, change = self.ramp
        level = self.glow * math.sin(self.beats[2] * time + self.phases[3]) + self.flicker * self._jump(time)[2]
        level += change * min(1.0, max(0.0, (time - start) / 0.5))
        return math.exp(level) * (2.5 if 0 <= time - self.flash < 1 / _NOISE_RATE else 1.0)


class _Passing:
    """A large thing that crosses the picture."""

    def __init__(self, size: tuple[int, int], seconds: float, held_out: bool, draw: np.random.Generator) -> None:
        self.size, side = size, min(size)
        length, rim = max(4, round(side * draw.uniform(0.6, 2.0))), int(draw.random() < 0.3)
        self.image: Image.Image = thing(length, held_out, draw, rim)
        self.middle, self.lasts = draw.uniform(0, seconds), draw.uniform(0.4, 1.6)
        angle = draw.uniform(0, 2 * math.pi)
        # From outside of the picture to outside of it on the other side, through about its middle.
        reach = (math.hypot(*size) + self.image.width * math.sqrt(2)) / 2
        self.way = reach * np.array([math.sin(angle), math.cos(angle)])
        self.target = np.array([length * draw.uniform(0.3, 0.7) for length in size])

    def over(self, picture: np.ndarray, time: float) -> np.ndarray:
        """(H, W, 3) the picture with the thing before it, where it is there at that time."""
        from PIL import Image

        done = 2 * (time - self.middle) / self.lasts
        if abs(done) >= 1:
            return picture
        row, column = self.target + done * self.way - self.image.width / 2
        layer = Image.new("RGBA", self.size[::-1])
        layer.paste(self.image, (round(column), round(row)))
        pixels = np.asarray(layer, dtype=np.float32)
        share = pixels[..., 3:] / 255
        return np.asarray(picture * (1 - share) + pixels[..., :3] * share)


def _scenery(size: tuple[int, int], held_out: bool, draw: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float: a piece of a photograph, a gradient, tiles, or clouds whose amplitudes fall with frequency."""
    kind = draw.random()
    if kind < 0.4:
        return piece(size, draw.uniform(0.3, 0.95), held_out, draw) * draw.uniform(0.4, 1.1)
    if kind < 0.5:
        return shaded(size, draw)
    if kind < 0.7:
        return tiles(size, draw)
    rows, columns = (np.fft.fftfreq(length)[:, None] for length in size)
    frequency = np.maximum(np.hypot(rows, columns.T), 1 / max(size))
    # Amplitudes of natural images fall about as 1/f.
    waves = np.fft.fft2(draw.normal(size=(3, *size))) / frequency ** draw.uniform(0.8, 1.6)
    clouds = np.fft.ifft2(waves).real
    clouds = (clouds - clouds.mean((1, 2), keepdims=True)) / clouds.std((1, 2), keepdims=True)
    mixed = np.einsum("ij,jhw->hwi", draw.uniform(0, 1, (3, 3)), clouds)
    return np.asarray(draw.uniform(60, 180, 3) + draw.uniform(10, 50) * mixed)


def _mirrored(position: float, room: float) -> float:
    """A position that moves to and fro between 0 and the room."""
    if room <= 0:
        return room / 2
    position %= 2 * room
    return position if position <= room else 2 * room - position
