"""A word list as a tree of spellings: what decoders may write.

A file has a line a word: the word alone where symbols are its letters or the word itself, or the word and the symbols
that it is spelled with, parted by spaces or tabs, as in CMUdict: ``bin B IH N``. A word may have several lines.

Files of CMUdict, Kaldi and the Montreal Forced Aligner are read as they are: comments, numbers of alternatives
(``WORD(2)``), stress (``IH1`` is ``IH`` where the model knows no stress), and probabilities between the word and its
symbols, which are not used.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...core.errors import ConfigError, UserError
from ...data.plain_text import NotText, read_lines

log = logging.getLogger(__name__)

Spelling = tuple[str, tuple[int, ...]]
"""A word, and the places of its symbols."""
COMMENT = ";;;"
"""Begins lines that are no words, in CMUdict."""
_ALTERNATIVE = re.compile(r"(.+)\([0-9]+\)")
_STRESSED = re.compile(r"([A-Za-z]+)[0-9]")
_NUMBER = re.compile(r"[0-9]+\.?[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+", re.ASCII)
_SPECIAL = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|!SIL")
"""Words of Kaldi that stand for silence, noise or what is unknown."""


@dataclass(eq=False)
class Node:
    """A beginning of words.

    Args:
        after: what may follow, by symbol.
        word: the word that ends here, if one does: of several the first that was added.
    """

    after: dict[int, Node] = field(default_factory=dict)
    word: str | None = None


class Lexicon:
    """Words and their spellings.

    Args:
        spellings: words with their symbols; a word may come several times.
        space: the symbol that parts words, where there is one.

    Raises:
        UserError: there is no word, or one has no symbols.
    """

    def __init__(self, spellings: Iterable[Spelling], space: int | None = None) -> None:
        self.root, self.space = Node(), space
        self.spellings: dict[str, list[tuple[int, ...]]] = {}
        for word, symbols in spellings:
            if not symbols:
                raise UserError(f"word {word!r} of the lexicon has no symbols")
            ways = self.spellings.setdefault(word, [])
            if symbols not in ways:
                ways.append(symbols)
            node = self.root
            for symbol in symbols:
                node = node.after.setdefault(symbol, Node())
            node.word = node.word or word
        if not self.spellings:
            raise UserError("a lexicon needs a word at least")

    @classmethod
    def read(cls, path: Path, symbols: Sequence[str], unit: str) -> Lexicon:
        """The words of a file.

        Args:
            path: the file, UTF-8, or UTF-16 with a byte order mark.
            symbols: those that the model knows.
            unit: what they are: ``words``, ``characters``, or others, which each line must spell out.

        Raises:
            ConfigError: the file cannot be read, has no word, or has one that cannot be spelled; names the line.
        """
        places = {symbol: place for place, symbol in enumerate(symbols)}
        found, left_out = [], []
        for number, line in enumerate(_lines(path), 1):
            word, *spelled = _fields(line, places) or [""]
            if not word:
                continue
            if not spelled and unit not in ("words", "characters"):
                raise ConfigError(f"{path}:{number}: {word!r} is not spelled; write the word and its {unit}")
            spelled = spelled or ([word] if unit == "words" else list(word))
            if strange := [symbol for symbol in spelled if symbol not in places]:
                if _SPECIAL.fullmatch(word):
                    left_out.append(word)
                    continue
                raise ConfigError(
                    f"{path}:{number}: {word!r} needs {strange[0]!r}, which is not one of the training set's {unit}: "
                    f"{', '.join(symbols[:10])}{', ...' if len(symbols) > 10 else ''}; drop the line"
                )
            found.append((word, tuple(places[symbol] for symbol in spelled)))
        if left_out:
            log.warning("lexicon %s: left out, as the model has no symbols for them: %s", path, ", ".join(left_out[:5]))
        if not found:
            raise ConfigError(f"lexicon {path} has no words")
        return cls(found, places.get(" "))

    def spell(self, words: Sequence[str], name: str) -> list[int]:
        """The symbols of a text, each word spelled in the first way that is known.

        Args:
            words: of the text.
            name: of the sample, for messages.

        Raises:
            UserError: a word is not in the lexicon; names all that are not.
        """
        if missing := sorted({word for word in words if word not in self.spellings}):
            raise UserError(f"{name}: the lexicon lacks {', '.join(map(repr, missing))}; add them, or correct the text")
        between = [self.space] if self.space is not None else []
        return [
            symbol
            for place, word in enumerate(words)
            for symbol in (*(between if place else []), *self.spellings[word][0])
        ]


def _lines(path: Path) -> list[str]:
    try:
        return read_lines(path)
    except OSError as error:
        raise ConfigError(f"lexicon {path} cannot be read: {error.strerror}") from error
    except NotText as error:
        raise ConfigError(f"lexicon {path} cannot be read: {error}") from error


def _fields(line: str, known: Container[str]) -> list[str]:
    """The word and its symbols; none of a comment."""
    if line.startswith(COMMENT):
        return []
    word, *spelled = line.split() or [""]
    if spelled and "#" not in known:
        # CMUdict has comments at the ends of lines.
        end = spelled.index("#") if "#" in spelled else len(spelled)
        spelled = spelled[:end]
    while spelled and spelled[0] not in known and _NUMBER.fullmatch(spelled[0]):
        spelled = spelled[1:]
    if spelled and (alternative := _ALTERNATIVE.fullmatch(word)):
        word = alternative[1]
    return [word, *(_unstressed(symbol, known) for symbol in spelled)] if word else []


def _unstressed(symbol: str, known: Container[str]) -> str:
    stressed = _STRESSED.fullmatch(symbol)
    return stressed[1] if stressed and symbol not in known and stressed[1] in known else symbol
