"""Glyphs: characters as the fonts that matplotlib ships draw them, against their Unicode names. Nothing is downloaded.

The sets are split by character, and characters that look alike are in one of them: what is held out was never seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Sample

from ..common.splits import Part, check_split, hash_split
from .fonts import characters, draw, framed
from .symbol_names import key_words, kind_of, mistyped, name_of, other_names, some_words, without_accents

Chance = Annotated[float, Field(ge=0, le=1)]


class GlyphsConfig(DatasetConfig):
    """Some 6,500 characters: a picture (``image``) and a name (``text``)."""

    type: Literal["glyphs"]
    parts: ClassVar[tuple[str, ...]] = ("image", "text")
    side: Annotated[int, Field(ge=8, le=256)] = 32
    """Pixels of a picture's side."""
    val: Part = 0.1
    """Part of the characters that is held out for validation."""
    test: Part = 0.1
    """Part of the characters that is held out for testing."""
    scripts: tuple[str, ...] = ()
    """First words of the names that are taken, such as ``latin``; all when empty."""
    any_font: bool = True
    """Draw training pictures in any of the fonts that have the character; in the first one when off."""
    move: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """How far training pictures are scaled and shifted at random."""
    centred: Chance = 0.3
    """Chance that a training picture is shown with its ink in the middle, as pictures and drawings of others are."""
    some_words: Chance = 0.3
    """Chance that of a training name some words alone are given, as people do who search."""
    languages: tuple[str, ...] = ()
    """Languages whose names of emoji are texts as well, such as ``en`` and ``de``; needs the package ``emoji``."""
    other_names: Chance = 0.0
    """Chance that a training text is one of those names, for characters that have any."""
    key_words: Chance = 0.0
    """Chance that of a training name the one or two words alone are given that few characters share."""
    typos: Chance = 0.0
    """Chance that a word of a training text is mistyped."""
    repeat_emoji: PositiveInt = 1
    """How often characters that have other names come in an epoch of training, since those are many names."""

    @model_validator(mode="after")
    def _names_exist(self) -> GlyphsConfig:
        if not self.languages and (self.other_names or self.repeat_emoji > 1):
            raise ValueError("other_names and repeat_emoji need languages, such as [en, de]")
        return self

    def build(self, split: str) -> Glyphs:
        """The characters of a split.

        Raises:
            ConfigError: there is no such split, or no character of these scripts.
        """
        check_split(split)
        codes = [code for code in characters() if not self.scripts or name_of(code).split()[0] in self.scripts]
        if not codes:
            raise ConfigError(
                f"data.scripts {list(self.scripts)}: no character's name starts so; try latin, greek, black"
            )
        chosen = [code for code in codes if hash_split(_look(code), self.val, self.test) == split]
        training = split == "train"
        if training and self.repeat_emoji > 1:
            chosen += [code for code in chosen if other_names(code, self.languages)] * (self.repeat_emoji - 1)
        return Glyphs(self, chosen, training=training)

    def plain(self, split: str) -> Glyphs:
        """The characters of a split, in their first font and with their whole names."""
        return Glyphs(self, list(dict.fromkeys(self.build(split).codes)), training=False)

    def prepare(self, part: str, value: Any) -> Any:
        """A query's picture as characters are drawn, and its text in small letters."""
        return framed(value, self.side) if part == "image" else value.lower() if isinstance(value, str) else value


class Glyphs(Dataset):
    """Characters.

    Args:
        config: how they are drawn.
        codes: their code points.
        training: whether they are drawn at random.
    """

    def __init__(self, config: GlyphsConfig, codes: list[int], *, training: bool) -> None:
        self.config, self.codes, self.training = config, codes, training

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> Sample:
        """A picture and a name; the label is the code point."""
        code = self.codes[index]
        name, label = name_of(code), f"U+{code:04X}"
        picture = self._picture(code) if self.training else draw(code, characters()[code][0], self.config.side)
        words = self._text(code) if self.training else name
        return Sample({"image": picture, "text": words}, label, f"{label} {name}")

    def name(self, index: int) -> str:
        """The code point and the name."""
        return f"U+{self.codes[index]:04X} {name_of(self.codes[index])}"

    def describe(self, index: int) -> Mapping[str, str]:
        """What a search shows of a character."""
        code = self.codes[index]
        names = other_names(code, self.config.languages) if self.config.languages else ()
        info = {"character": chr(code), "name": name_of(code), "code": f"U+{code:04X}", "kind": kind_of(code)}
        return info | ({"also": "; ".join(names)} if names else {})

    def _text(self, code: int) -> str:
        """A training text, drawn at random."""
        config, text = self.config, name_of(code)
        if _happens(config.other_names) and (names := other_names(code, config.languages)):
            name = names[int(torch.randint(len(names), ()))]
            text = without_accents(name) if _happens(0.5) else name
        if _happens(config.key_words):
            text = key_words(text)
        elif _happens(config.some_words):
            text = some_words(text)
        return mistyped(text) if _happens(config.typos) else text

    def _picture(self, code: int) -> Tensor:
        fonts, move = characters()[code], self.config.move
        font = fonts[int(torch.randint(len(fonts), ()))] if self.config.any_font else fonts[0]
        scale, right, down = (2 * torch.rand(3) - 1).tolist()
        side = self.config.side
        picture = draw(code, font, side, scale=1 + move * scale, shift=(move * right / 2, move * down / 2))
        return framed(picture, side, part=0.75 + move * scale) if _happens(self.config.centred) else picture


@cache
def _look(code: int) -> str:
    """What a character looks like, so that those that look alike can be kept together."""
    picture = framed(draw(code, characters()[code][0], 24), 12)
    return str((picture // 64).flatten().tolist())


def _happens(chance: float) -> bool:
    # A chance of zero draws nothing, so that options that are off leave the order of random numbers as it is.
    return chance > 0 and bool(torch.rand(()) < chance)
