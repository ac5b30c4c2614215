"""A word list as a tree of spellings: what decoders may write.

A file has a line a word: the word alone where symbols are its letters or the word itself, or the word and the symbols
that it is spelled with, parted by spaces, as in CMUdict: ``bin B IH N``. A word may have several lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError, UserError

Spelling = tuple[str, tuple[int, ...]]
"""A word, and the places of its symbols."""
COMMENT = ";;;"
"""Begins lines that are no words, in CMUdict."""


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
            self.spellings.setdefault(word, []).append(symbols)
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
            path: the file, UTF-8.
            symbols: those that the model knows.
            unit: what they are: ``words``, ``characters``, or others, which each line must spell out.

        Raises:
            ConfigError: the file cannot be read, has no word, or has one that cannot be spelled; names the line.
        """
        places = {symbol: place for place, symbol in enumerate(symbols)}
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"lexicon {path} cannot be read: {error}") from error
        found = []
        for number, line in enumerate(lines, 1):
            word, *spelled = line.split() or [""]
            if not word or line.startswith(COMMENT):
                continue
            if not spelled and unit not in ("words", "characters"):
                raise ConfigError(f"{path}:{number}: {word!r} is not spelled; write the word and its {unit}")
            spelled = spelled or ([word] if unit == "words" else list(word))
            if strange := [symbol for symbol in spelled if symbol not in places]:
                raise ConfigError(
                    f"{path}:{number}: {word!r} needs {strange[0]!r}, which is not one of the training set's {unit}: "
                    f"{', '.join(symbols[:10])}{', ...' if len(symbols) > 10 else ''}; drop the line"
                )
            found.append((word, tuple(places[symbol] for symbol in spelled)))
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
