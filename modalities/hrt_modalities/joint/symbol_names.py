"""Names of characters beside the Unicode one, and the forms in which people type them.

Emoji have names in many languages: those of Unicode's CLDR, which the package ``emoji`` ships. Shortening and mistyping
draw from torch's generator, as augmentations do.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from hrt_mm.core.errors import ConfigError
from hrt_mm.core.extras import needs_extra

from .fonts import characters

KINDS: Mapping[str, str] = {
    "Lu": "uppercase letter", "Ll": "lowercase letter", "Lt": "titlecase letter", "Lm": "modifier letter",
    "Lo": "letter", "Nd": "digit", "Nl": "letter number", "No": "number", "Sm": "math symbol", "Sc": "currency symbol",
    "Sk": "modifier symbol", "So": "symbol",
}  # fmt: skip
"""General categories of Unicode; those that are absent are punctuation."""
VARIANT = "\ufe0f"
"""Follows characters that are shown as emoji."""
TYPO_LENGTH = 4
"""Letters of the shortest word that is mistyped."""


@cache
def name_of(code: int) -> str:
    """The Unicode name in small letters."""
    return unicodedata.name(chr(code)).lower()


def kind_of(code: int) -> str:
    """The general category in words."""
    return KINDS.get(unicodedata.category(chr(code)), "punctuation")


@cache
def other_names(code: int, languages: tuple[str, ...]) -> tuple[str, ...]:
    """Names of a character as an emoji, without repetitions; none for characters that are no emoji.

    Args:
        code: the code point.
        languages: such as ``en`` and ``de``; see ``emoji.LANGUAGES``.

    Raises:
        ConfigError: there are no names in a language, or the package is not installed.
    """
    entries = _emoji(languages)
    texts = []
    for key in (chr(code), chr(code) + VARIANT):
        entry = entries.get(key, {})
        for language in languages:
            aliases = entry.get("alias") or () if language == "en" else ()
            texts += [name for name in (entry.get(language), *aliases) if name]
    names = (text.strip(":").replace("_", " ").lower() for text in texts)
    return tuple(dict.fromkeys(name for name in names if name != name_of(code)))


@cache
def _emoji(languages: tuple[str, ...]) -> Mapping[str, Mapping[str, Any]]:
    with needs_extra("demo", "names of emoji"):
        import emoji

    if unknown := set(languages) - set(emoji.LANGUAGES):
        raise ConfigError(f"data.languages: no names in {min(unknown)!r}; there are {', '.join(emoji.LANGUAGES)}")
    for language in languages:
        emoji.config.load_language(language)
    return emoji.EMOJI_DATA


@cache
def _word_counts() -> Mapping[str, int]:
    return Counter(word for code in characters() for word in set(name_of(code).split()))


def some_words(name: str) -> str:
    """At least one of the words of a name, in their order."""
    words = name.split()
    keep_mask = torch.rand(len(words)) < 0.7
    keep_mask[int(torch.randint(len(words), ()))] = True
    return " ".join(word for word, keep in zip(words, keep_mask.tolist(), strict=True) if keep)


def key_words(name: str) -> str:
    """One or two words of a name, in their order, the more likely the fewer characters have them in their names."""
    words = name.split()
    counts = _word_counts()
    weights = torch.tensor([1 / counts.get(word, 1) for word in words])
    count = min(len(words), 1 + int(torch.rand(()) < 0.4))
    positions = torch.multinomial(weights, count).sort().values.tolist()
    return " ".join(words[position] for position in positions)


def without_accents(text: str) -> str:
    """The text without the accents of its letters."""
    decomposed = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFC", "".join(char for char in decomposed if not unicodedata.combining(char)))


def mistyped(text: str) -> str:
    """The text with one letter of a longer word left out, doubled or swapped with the next, or the word cut short."""
    words = text.split(" ")
    candidates = [number for number, word in enumerate(words) if len(word) >= TYPO_LENGTH]
    if not candidates:
        return text
    number = candidates[_integer(len(candidates))]
    mistakes: tuple[Callable[[str, int], str], ...] = (
        lambda word, at: word[:at] + word[at + 1 :],
        lambda word, at: word[:at] + word[at] + word[at:],
        lambda word, at: word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        lambda word, at: word[: -1 - at % 2],
    )
    word = words[number]
    words[number] = mistakes[_integer(len(mistakes))](word, 1 + _integer(len(word) - 2))
    return " ".join(words)


def _integer(below: int) -> int:
    return int(torch.randint(below, ()))
