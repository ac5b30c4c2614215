"""Pictures of characters, drawn with the fonts that matplotlib ships.

Shapes: S side of a picture.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hrt_mm.core.extras import needs_extra

if TYPE_CHECKING:
    from PIL import ImageFont

FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
"""A character is drawn in the first font that has it. Fonts without Unicode code points are not among them."""
EM = 0.72
"""Font size as a fraction of the side of the picture."""
_VISIBLE = ("L", "N", "P", "S")
"""Unicode categories of visible characters: letters, numbers, punctuation, symbols."""


def font_path(name: str) -> Path:
    """The file of a font."""
    with needs_extra("report"):
        import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


def has_name(code: int) -> bool:
    """Whether Unicode names a character."""
    try:
        return bool(unicodedata.name(chr(code)))
    except ValueError:
        return False


@cache
def characters() -> Mapping[int, tuple[str, ...]]:
    """By code point, the fonts that have it, for all visible characters with a name."""
    with needs_extra("report"):
        from matplotlib.ft2font import FT2Font

    fonts_by_code: dict[int, list[str]] = {}
    for font in FONTS:
        for code in FT2Font(font_path(font)).get_charmap():
            if unicodedata.category(chr(code))[0] in _VISIBLE and has_name(code):
                fonts_by_code.setdefault(code, []).append(font)
    return {code: tuple(fonts) for code, fonts in sorted(fonts_by_code.items())}


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    with needs_extra("vision"):
        from PIL import ImageFont

    return ImageFont.truetype(font_path(name), size, layout_engine=ImageFont.Layout.BASIC)


def draw(code: int, font: str, side: int, *, scale: float = 1.0, shift: tuple[float, float] = (0, 0)) -> Tensor:
    """Draws a character, dark on white, at its position on the line. Large ones are reduced to fit the picture.

    Args:
        code: its code point.
        font: its font.
        side: of the picture in pixels.
        scale: of the font.
        shift: right and down, as fractions of the side.

    Returns:
        (1, S, S) uint8.
    """
    with needs_extra("vision"):
        from PIL import Image, ImageDraw

    size = max(4, round(EM * scale * side))
    left, top, right, bottom = _font(font, size).getbbox(chr(code), anchor="ls")
    if (longest := max(right - left, bottom - top)) > side:
        size = max(4, int(size * side / longest))
        left, top, right, bottom = _font(font, size).getbbox(chr(code), anchor="ls")
    # Centred on the line: 0.35 of the font size is about half the height of capitals. Kept inside the picture.
    x = (side - right - left) / 2 + shift[0] * side
    y = side / 2 + 0.35 * size + shift[1] * side
    x = min(max(x, -left), side - right)
    y = min(max(y, -top), side - bottom)
    picture = Image.new("L", (side, side), 255)
    ImageDraw.Draw(picture).text((round(x), round(y)), chr(code), fill=0, font=_font(font, size), anchor="ls")
    return torch.from_numpy(np.asarray(picture).copy())[None]


def framed(image: Tensor, side: int, *, part: float = 0.75) -> Tensor:
    """Brings any image into the form of drawn characters: dark on white, with the ink centred.

    Args:
        image: (C, H, W) uint8, or float in 0..1.
        side: of the result in pixels.
        part: fraction of the side that the longer side of the ink takes.

    Returns:
        (1, S, S) uint8.
    """
    with needs_extra("vision"):
        from PIL import Image

    grey = image.float() * (1.0 if image.dtype == torch.uint8 else 255.0)
    grey = grey.mean(0)
    border = torch.cat([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    # A dark border means light on dark.
    if border.median() < 128:
        grey = 255 - grey
    low, high = float(grey.min()), float(grey.max())
    if high - low < 8:
        return torch.full((1, side, side), 255, dtype=torch.uint8)
    grey = (grey - low) * (255 / (high - low))
    rows, columns = ((grey < 128).any(axis).nonzero()[:, 0] for axis in (1, 0))
    ink = grey[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    shrink = part * side / max(ink.shape)
    height, width = (max(1, round(size * shrink)) for size in ink.shape)
    small = Image.fromarray(ink.round().byte().numpy()).resize((width, height), Image.Resampling.LANCZOS)
    picture = Image.new("L", (side, side), 255)
    picture.paste(small, ((side - width) // 2, (side - height) // 2))
    return torch.from_numpy(np.asarray(picture).copy())[None]
