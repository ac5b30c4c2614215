"""A lexicon: the words that decoders may write, as a prefix tree of their spellings.

A file has one word per line, followed by its symbols, separated by spaces or tabs, as in CMUdict: ``bin B IH N``. The
symbols are left out where they are the letters of the word or the word itself. A word may have several lines.

The formats of CMUdict, Kaldi and the Montreal Forced Aligner are supported: comments, alternatives (``WORD(2)``),
stress (``IH1`` is ``IH`` where the model has no stress), and pronunciation probabilities, which are ignored.
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
"""A word and the indices of its symbols."""
COMMENT = ";;;"
"""Start of a comment line in CMUdict."""
_ALTERNATIVE = re.compile(r"(.+)\([0-9]+\)")
_STRESSED = re.compile(r"([A-Za-z]+)[0-9]")
_NUMBER = re.compile(r"[0-9]+\.?[0-9]*([eE][-+]?[0-9]+)?|\.[0-9]+", re.ASCII)
_SPECIAL = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|!SIL")
"""Words of Kaldi for silence, noise and unknown words."""


@dataclass(eq=False)
class LexiconNode:
    """A prefix of words.

    Args:
        children: nodes of the symbols that may follow.
        word: the word that ends here, if any; of several, the first that was added.
    """

    children: dict[int, LexiconNode] = field(default_factory=dict)
    word: str | None = None


class Lexicon:
    """Words and their spellings.

    Args:
        spellings: words with their symbols; a word may occur several times.
        space: the symbol between words, where there is one.

    Raises:
        UserError: there are no words, or one has no symbols.
    """

    def __init__(self, spellings: Iterable[Spelling], space: int | None = None) -> None:
        self.root, self.space = LexiconNode(), space
        self.spellings: dict[str, list[tuple[int, ...]]] = {}
        for word, symbols in spellings:
            if not symbols:
                raise UserError(f"word {word!r} of the lexicon has no symbols")
            spellings_of_word = self.spellings.setdefault(word, [])
            if symbols not in spellings_of_word:
                spellings_of_word.append(symbols)
            node = self.root
            for symbol in symbols:
                node = node.children.setdefault(symbol, LexiconNode())
            # Homophones: decoders write the first, as in the order of the file.
            node.word = node.word or word
        if not self.spellings:
            raise UserError("a lexicon needs at least one word")

    @classmethod
    def read(cls, path: Path, symbols: Sequence[str], unit: str) -> Lexicon:
        """The words of a file.

        Args:
            path: the file, UTF-8, or UTF-16 with a byte order mark.
            symbols: of the model.
            unit: of the symbols: ``words``, ``characters``, or another one, which each line must spell out.

        Raises:
            ConfigError: the file cannot be read, has no word, or has one that cannot be spelled; names the line.
        """
        symbol_index = {symbol: index for index, symbol in enumerate(symbols)}
        spellings, skipped = [], []
        for number, line in enumerate(_lines(path), 1):
            word, *spelled = _fields(line, symbol_index) or [""]
            if not word:
                continue
            if not spelled and unit not in ("words", "characters"):
                raise ConfigError(f"{path}:{number}: {word!r} is not spelled; write the word and its {unit}")
            spelled = spelled or ([word] if unit == "words" else list(word))
            if unknown := [symbol for symbol in spelled if symbol not in symbol_index]:
                if _SPECIAL.fullmatch(word):
                    skipped.append(word)
                    continue
                raise ConfigError(
                    f"{path}:{number}: {word!r} needs {unknown[0]!r}, which is not one of the training set's {unit}: "
                    f"{', '.join(symbols[:10])}{', ...' if len(symbols) > 10 else ''}; drop the line"
                )
            spellings.append((word, tuple(symbol_index[symbol] for symbol in spelled)))
        if skipped:
            log.warning("lexicon %s: skipped, as the model has no symbols for them: %s", path, ", ".join(skipped[:5]))
        if not spellings:
            raise ConfigError(f"lexicon {path} has no words")
        return cls(spellings, symbol_index.get(" "))

    def spell(self, words: Sequence[str], name: str) -> list[int]:
        """The symbols of a text, with the first spelling of each word.

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
            for index, word in enumerate(words)
            for symbol in (*(between if index else []), *self.spellings[word][0])
        ]


def _lines(path: Path) -> list[str]:
    try:
        return read_lines(path)
    except OSError as error:
        raise ConfigError(f"lexicon {path} cannot be read: {error.strerror}") from error
    except NotText as error:
        raise ConfigError(f"lexicon {path} cannot be read: {error}") from error


def _fields(line: str, symbols: Container[str]) -> list[str]:
    """The word and its symbols; empty for a comment."""
    if line.startswith(COMMENT):
        return []
    word, *spelled = line.split() or [""]
    if spelled and "#" not in symbols:
        # CMUdict has comments at the ends of lines.
        end = spelled.index("#") if "#" in spelled else len(spelled)
        spelled = spelled[:end]
    # Kaldi and the Montreal Forced Aligner write probabilities between the word and its symbols.
    while spelled and spelled[0] not in symbols and _NUMBER.fullmatch(spelled[0]):
        spelled = spelled[1:]
    if spelled and (alternative := _ALTERNATIVE.fullmatch(word)):
        word = alternative[1]
    return [word, *(_unstressed(symbol, symbols) for symbol in spelled)] if word else []


def _unstressed(symbol: str, symbols: Container[str]) -> str:
    stressed = _STRESSED.fullmatch(symbol)
    return stressed[1] if stressed and symbol not in symbols and stressed[1] in symbols else symbol
