"""The content of captioned films: coloured symbols that move over simple backgrounds, with their captions.

Shapes: H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hrt_mm.core.extras import needs_extra

from ..video.rendering import ACTIONS, Drawn, Shot
from .fonts import font_path

if TYPE_CHECKING:
    from PIL import Image

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (214, 32, 36),
    "orange": (246, 136, 20),
    "yellow": (250, 222, 40),
    "green": (36, 160, 60),
    "blue": (36, 84, 220),
    "purple": (140, 50, 170),
    "white": (250, 250, 250),
    "black": (16, 16, 16),
}
THINGS: Mapping[str, str] = {
    "star": "★",
    "heart": "♥",
    "sun": "☀",
    "moon": "☾",
    "cloud": "☁",
    "umbrella": "☂",
    "anchor": "⚓",
    "plane": "✈",
    "knight": "♞",
    "note": "♫",
    "flag": "⚑",
    "cross": "✚",
}
"""Characters of a font that matplotlib ships."""
SETTINGS = ("night", "desert", "sea", "snow", "meadow", "city")
ACTION_WORDS: Mapping[str, str] = {
    "left": "moves left",
    "right": "moves right",
    "up": "rises",
    "down": "falls",
    "grow": "grows",
    "shrink": "shrinks",
    "turn_left": "turns left",
    "turn_right": "turns right",
    "appear": "appears",
    "vanish": "vanishes",
}
assert set(ACTION_WORDS) == set(ACTIONS)
RADIUS = (0.3, 0.42)
"""Least and largest radius of symbols, as fractions of the shorter side."""
_FONT = "DejaVuSans-Bold"


@dataclass(frozen=True)
class Event(Shot):
    """A shot of a moving symbol.

    Args:
        colour: a key of ``COLOURS``.
        thing: a key of ``THINGS``.
        setting: one of ``SETTINGS``.
        scene: number of its scene.
        named: whether the caption of the scene names its setting.
    """

    colour: str
    thing: str
    setting: str
    scene: int
    named: bool = True

    @property
    def words(self) -> tuple[str, str, str]:
        """Colour, thing and action, as in the caption."""
        return self.colour, self.thing, ACTION_WORDS[self.action]

    def drawn(self, behind: np.ndarray, draw: np.random.Generator) -> Drawn:
        """The shot over the (H, W, 3) background of its scene. Symbols are nearly upright unless they turn."""
        drawing = Drawn(self, behind, lambda side: symbol(self.thing, self.colour, side), draw, RADIUS)
        drawing.angle = draw.uniform(-12, 12)
        return drawing


def symbol(thing: str, colour: str, side: int) -> Image.Image:
    """A symbol that fills a square, in a colour, with a dark or light outline."""
    with needs_extra("vision"):
        from PIL import Image, ImageDraw, ImageFont

    scale = 4
    font = ImageFont.truetype(font_path(_FONT), side * scale, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(THINGS[thing]))
    line = max(1, side * scale // 28)
    large = Image.new("RGBA", (right - left + 2 * line, bottom - top + 2 * line), (0, 0, 0, 0))
    around = (255, 255, 255) if sum(COLOURS[colour]) < 200 else (0, 0, 0)
    ImageDraw.Draw(large).text(
        (line - left, line - top), THINGS[thing], COLOURS[colour], font, stroke_width=line, stroke_fill=around
    )
    longest = max(large.size)
    square = Image.new("RGBA", (longest, longest), (0, 0, 0, 0))
    square.paste(large, ((longest - large.width) // 2, (longest - large.height) // 2))
    return square.resize((side, side), Image.Resampling.BOX)


def ground(setting: str, size: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    """(H, W, 3) float32: a random background of a setting."""
    top, bottom = _RAMPS[setting]
    share_H11 = np.linspace(0, 1, size[0])[:, None, None] ** draw.uniform(0.6, 1.6)
    ground_HW3 = np.array(top) * (1 - share_H11) + np.array(bottom) * share_H11
    ground_HW3 = np.repeat(ground_HW3, size[1], axis=1) + draw.uniform(-14, 14, 3)
    if setting == "night":
        stars = draw.integers(0, size[0] * size[1], 18)
        ground_HW3.reshape(-1, 3)[stars] = 210
    elif setting == "sea":
        rows = np.sin(np.arange(size[0]) * draw.uniform(0.7, 1.1) + draw.uniform(0, 6)) * 22
        ground_HW3 += rows[:, None, None]
    elif setting == "city":
        left = 0
        while left < size[1]:
            wide, high = int(draw.integers(5, 12)), int(draw.integers(size[0] // 3, size[0] * 5 // 6))
            ground_HW3[size[0] - high :, left : left + wide] = draw.uniform(70, 130)
            left += wide + int(draw.integers(0, 3))
    grain = {"desert": 6, "meadow": 9}.get(setting, 2)
    ground_HW3 += draw.normal(0, grain, (*size, 1))
    return np.clip(ground_HW3, 0, 255).astype(np.float32)


_RAMPS: Mapping[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "night": ((8, 8, 32), (34, 34, 86)),
    "desert": ((240, 214, 160), (206, 158, 92)),
    "sea": ((70, 150, 200), (20, 80, 140)),
    "snow": ((206, 220, 236), (240, 244, 250)),
    "meadow": ((130, 190, 110), (60, 130, 50)),
    "city": ((190, 200, 214), (150, 150, 160)),
}
