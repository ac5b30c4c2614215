"""Lexical search: BM25 over the words and the character trigrams of rows' texts.

Trigrams find names in spite of typos and inflection, and whole words rank exact matches first. A row has several
units: its texts together, and if there are several, each short one by itself, so that one of many names is as good a
match as the only name. The score of a row is that of its best unit.

Terms are stored as hashes, with the units that contain them and their BM25 weights there, in files of a segment. The
inverse document frequencies are those of all segments that are searched together, so results do not depend on how rows
were added. Libraries such as bm25s and scikit-learn compute them when a corpus is indexed: segments would have their
own.

Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009.

Shapes: N rows, U units, V distinct terms of a block, P postings of a block, K results.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import numpy as np

from ..core.errors import UserError
from ..data.files import check_regular
from .rows import Row
from .where import number, timestamp

FILE = "words.u32"
"""The blocks of postings, each with its terms, starts, units and weights; where the units of each row begin; the number
of terms and of postings of each block; and at the end the number of blocks and of rows, :data:`VERSION` and the CRC-32
of everything before. All numbers are uint32, and weights are float32."""
VERSION = 1
CHECKED_UP_TO = 16 << 20
"""Size in bytes up to which the checksum is verified when a file is opened."""
BLOCK = 4_000_000
"""Number of postings after which a block is written. Memory while indexing is that of one block, some 100 MB."""
WORD_WEIGHT = 3.0
"""Weight of a word that matches as a whole, beside 1 for each of its trigrams."""
K1, B = 1.5, 0.75
"""BM25 parameters: saturation of frequencies, and how far long texts are discounted."""
AVERAGE_LENGTH = 60
"""Number of terms of a text of average length. It is fixed, so that weights do not change when rows are added."""
MAX_LENGTH = 2 * AVERAGE_LENGTH
"""Length beyond which texts are not discounted further. Otherwise the frequencies of their terms would not saturate."""
MAX_QUERY_TERMS = 512
"""Number of distinct terms of a query that are searched for, the rarest first."""
MAX_TEXT = 10_000
"""Characters of a row's texts that are indexed."""
MAX_UNITS, MAX_UNIT_TEXT = 64, 200
"""Maximum number of a row's units, and of the characters of those that are single texts."""

_WORD = re.compile(r"[^\W_]+|[^\w\s\x00-\x7f]")
_PATH = re.compile(r"(?:/|[A-Za-z]:\\)[^\n]*?([^/\\\n]+?)(?:\.\w{1,5})?|[^\n]*[/\\]([^/\\\n]+)\.[A-Za-z]\w{1,4}")
_LIST = re.compile(r"\s*[;|\n]\s*")


def words_of(text: str) -> list[str]:
    """The words of a text apart from case and accents. A symbol beyond ASCII is a word."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(character for character in decomposed if not unicodedata.combining(character)))


def units_of(row: Row) -> list[str]:
    """The texts of a row to search.

    The first has all values of its info, without numbers and dates, and with the names of files in place of paths.
    If there are several, or lists with semicolons, bars or lines, each short one follows by itself.
    """
    texts: dict[str, None] = {}
    for value in row.info.values():
        if number(value) is not None or timestamp(value) is not None:
            continue
        path = _PATH.fullmatch(value.strip())
        texts.update(dict.fromkeys([path[1] or path[2]] if path else _LIST.split(value)))
    texts.pop("", None)
    whole = " ".join(texts)[:MAX_TEXT]
    single = [text for text in texts if len(text) <= MAX_UNIT_TEXT] if len(texts) > 1 else []
    return [whole, *single[: MAX_UNITS - 1]]


def terms_of(text: str) -> Counter[tuple[str, bool]]:
    """Frequencies of terms, each with whether it is a word rather than a trigram."""
    counts: Counter[tuple[str, bool]] = Counter()
    for word in words_of(text):
        counts[word, True] += 1
        padded = f" {word} "
        for first in range(len(padded) - 2):
            counts[padded[first : first + 3], False] += 1
    return counts


@lru_cache(1 << 18)
def hashed(term: str, is_word: bool) -> int:
    """32-bit hash of a term."""
    return crc32(f"{'=' if is_word else ''}{term}".encode("utf-8", "surrogatepass"))


def impacts(counts: Mapping[tuple[str, bool], int]) -> dict[int, float]:
    """BM25 weights of the terms of a text by hash, without the inverse document frequency."""
    length = min(sum(counts.values()), MAX_LENGTH)
    saturation = K1 * (1 - B + B * length / AVERAGE_LENGTH)
    return {hashed(*term): count * (K1 + 1) / (count + saturation) for term, count in counts.items()}


def inverse_frequency(frequency: int, total: int) -> float:
    """The inverse document frequency of a term that is in ``frequency`` of ``total`` texts."""
    return math.log1p((total - frequency + 0.5) / (frequency + 0.5))


@dataclass(frozen=True)
class _Block:
    terms_V: np.ndarray
    starts_V: np.ndarray
    """(V + 1,) where the postings of each term begin."""
    units_P: np.ndarray
    impacts_P: np.ndarray

    def postings(self, term: int) -> tuple[np.ndarray, np.ndarray]:
        """(p,) the units with a term, and (p,) its weights there."""
        position = int(np.searchsorted(self.terms_V, term))
        if position == len(self.terms_V) or self.terms_V[position] != term:
            return self.units_P[:0], self.impacts_P[:0]
        postings = slice(int(self.starts_V[position]), int(self.starts_V[position + 1]))
        return self.units_P[postings], self.impacts_P[postings]


class _Collector:
    """Collects the postings of a block."""

    def __init__(self) -> None:
        self.terms, self.units, self.impacts = array("I"), array("I"), array("f")

    def add(self, unit: int, text: str) -> None:
        weights = impacts(terms_of(text))
        self.terms.extend(weights)
        self.units.extend([unit] * len(weights))
        self.impacts.extend(weights.values())

    def block(self) -> _Block:
        """The postings so far, sorted by term."""
        terms_P = np.array(self.terms, np.uint32)
        order_P = np.argsort(terms_P, kind="stable")
        terms_V, first_V = np.unique(terms_P[order_P], return_index=True)
        starts_V = np.append(first_V, len(terms_P)).astype(np.uint32)
        units_P, impacts_P = np.array(self.units, np.uint32), np.array(self.impacts, np.float32)
        return _Block(terms_V, starts_V, units_P[order_P], impacts_P[order_P])


def _blocks(rows: Iterable[Row], starts: array[int]) -> Iterator[_Block]:
    """Indexes rows.

    Args:
        rows: to index.
        starts: takes the number of the first unit of each row, and at the end the number of units.
    """
    collector, unit = _Collector(), 0
    for row in rows:
        starts.append(unit)
        for text in units_of(row):
            collector.add(unit, text)
            unit += 1
        if len(collector.terms) >= BLOCK:
            yield collector.block()
            collector = _Collector()
    starts.append(unit)
    yield collector.block()


def write_words(folder: Path, rows: Iterable[Row]) -> None:
    """Writes the words of a segment's rows into its folder."""
    starts, sizes, crc = array("I"), [], 0
    with (folder / FILE).open("wb") as file:

        def write(values: np.ndarray) -> None:
            nonlocal crc
            data = values.tobytes()
            crc = crc32(data, crc)
            file.write(data)

        for block in _blocks(rows, starts):
            for values in (block.terms_V, block.starts_V, block.units_P, block.impacts_P):
                write(values)
            sizes += [len(block.terms_V), len(block.units_P)]
        write(np.array(starts, np.uint32))
        write(np.array([*sizes, len(sizes) // 2, len(starts) - 1, VERSION], np.uint32))
        file.write(np.array([crc], np.uint32).tobytes())
        file.flush()
        os.fsync(file.fileno())


class Words:
    """The words of the rows of a segment, opened for searching.

    Args:
        starts_N: (N + 1,) where the units of each row begin.
        blocks: their postings.
    """

    def __init__(self, starts_N: np.ndarray, blocks: Sequence[_Block]) -> None:
        self.starts_N, self._blocks = starts_N, blocks

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Words:
        """Indexes rows in memory."""
        starts = array("I")
        blocks = list(_blocks(rows, starts))
        return cls(np.array(starts, np.uint32), blocks)

    @classmethod
    def open(cls, folder: Path, count: int, remedy: str, *, content: bool = False) -> Words | None:
        """Opens the file in a folder, memory-mapped; ``None`` if there is none, as in indexes of earlier versions.

        Args:
            folder: of the segment.
            count: its number of rows.
            remedy: the fix for damage, for messages.
            content: verify the checksum of a large file too.

        Raises:
            UserError: the file is damaged.
        """
        path = folder / FILE
        try:
            size = check_regular(path, str(path)).st_size
            if size % 4 or size < 16:
                raise _Damaged(f"it has {size} bytes")
            numbers = np.memmap(path, np.uint32, "r")
            if (content or size <= CHECKED_UP_TO) and crc32(numbers[:-1].data) != numbers[-1]:
                raise _Damaged("its content does not match its checksum")
            return cls(*_parsed(numbers[:-1], count))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}; {remedy}") from error
        except _Damaged as error:
            raise UserError(f"{path} is damaged: {error}; {remedy}") from error

    def __len__(self) -> int:
        return len(self.starts_N) - 1

    @property
    def units(self) -> int:
        """Number of units of all rows."""
        return int(self.starts_N[-1])

    def postings(self, term: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(p,) the units with a term and (p,) its weights there, for each block that has it."""
        for block in self._blocks:
            units_P, impacts_P = block.postings(term)
            if len(units_P):
                if int(units_P.max()) >= self.units:
                    raise UserError("the words of the index are damaged: they name a text that does not exist")
                yield units_P, impacts_P


@dataclass(frozen=True)
class WordMatch:
    """A row that matches a text.

    Args:
        score: 0 to 1; 1 for a row one of whose texts is the query.
        segment: number of the segment.
        position: of the row in it.
    """

    score: float
    segment: int
    position: int


def search_words(text: str, segments: Sequence[tuple[Words, np.ndarray]], k: int) -> list[WordMatch]:
    """The rows whose texts match a query best.

    Args:
        text: the query.
        segments: the words of each with (N,) bool, the rows to search.
        k: maximum number of results.
    """
    return search_words_many([text], segments, k)[0]


def search_words_many(
    texts: Sequence[str], segments: Sequence[tuple[Words, np.ndarray]], k: int
) -> list[list[WordMatch]]:
    """The results of several queries, each as :func:`search_words` gives them. Postings are read once for all.

    Args:
        texts: the queries.
        segments: the words of each with (N,) bool, the rows to search.
        k: maximum number of results of each.
    """
    frequencies = [terms_of(text) for text in texts]
    terms = {hashed(*term) for counts in frequencies for term in counts}
    postings = {term: [list(words.postings(term)) for words, _ in segments] for term in terms}
    total = sum(words.units for words, _ in segments)
    rarity = {}
    for term, by_segment in postings.items():
        frequency = sum(len(units_P) for blocks in by_segment for units_P, _ in blocks)
        rarity[term] = inverse_frequency(frequency, total)
    return [_matches(counts, rarity, postings, segments, k) for counts in frequencies]


def _matches(
    counts: Counter[tuple[str, bool]],
    rarity: Mapping[int, float],
    postings: Mapping[int, Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]],
    segments: Sequence[tuple[Words, np.ndarray]],
    k: int,
) -> list[WordMatch]:
    """The best rows for the terms of one query.

    Args:
        counts: frequencies of its terms.
        rarity: inverse document frequency of each term.
        postings: of each term, for each segment and block.
        segments: the words of each with (N,) bool, the rows to search.
        k: maximum number of results.
    """
    term_impacts = impacts(counts)
    weights = {hashed(*term): WORD_WEIGHT if term[1] else 1.0 for term in counts}
    factors = {term: weights[term] * rarity[term] for term in term_impacts}
    best = sum(factor * term_impacts[term] for term, factor in factors.items())
    searched = sorted(factors, key=lambda term: -factors[term])[:MAX_QUERY_TERMS]
    matches: list[WordMatch] = []
    for segment, (words, alive_N) in enumerate(segments):
        scores_U = np.zeros(words.units, np.float32)
        for term in searched:
            for units_P, impacts_P in postings[term][segment]:
                scores_U[units_P] += np.float32(factors[term]) * impacts_P
        if not scores_U.any():
            continue
        scores_N = np.maximum.reduceat(scores_U, words.starts_N[:-1])
        scores_N[~alive_N] = 0
        matched = np.flatnonzero(scores_N)
        if k < len(matched):
            threshold = np.partition(scores_N[matched], len(matched) - k)[len(matched) - k]
            matched = matched[scores_N[matched] >= threshold]
        top = matched[np.argsort(-scores_N[matched], kind="stable")[:k]]
        matches += [WordMatch(min(1.0, float(scores_N[position]) / best), segment, int(position)) for position in top]
    return sorted(matches, key=lambda match: -match.score)[:k]


class _Damaged(Exception):
    """What is wrong with a file."""


def _parsed(numbers: np.ndarray, count: int) -> tuple[np.ndarray, list[_Block]]:
    """Where the units of each row begin, and the blocks, of a file without its checksum.

    Raises:
        _Damaged: lengths do not agree.
    """
    blocks, rows, version = (int(number) for number in numbers[-3:])
    if version != VERSION:
        raise _Damaged(f"it has version {version}, this program reads {VERSION}")
    if 2 * blocks + 3 > len(numbers):
        raise _Damaged(f"it is of {blocks} blocks and {len(numbers)} numbers")
    sizes = numbers[len(numbers) - 3 - 2 * blocks : -3].reshape(-1, 2).tolist()
    lengths = [length for terms, postings in sizes for length in (terms, terms + 1, postings, postings)]
    if rows != count or len(numbers) != sum(lengths) + rows + 1 + 2 * blocks + 3:
        raise _Damaged(f"it is of {rows} rows and {len(numbers)} numbers, not of {count} rows and as many as it says")
    arrays = np.split(numbers, np.cumsum(lengths))
    starts_N = arrays.pop()[: rows + 1]
    if (np.diff(starts_N.astype(np.int64)) < 1).any():
        raise _Damaged("its rows do not ascend")
    return starts_N, [
        _Block(terms_V, starts_V, units_P, impacts_P.view(np.float32))
        for terms_V, starts_V, units_P, impacts_P in zip(*(arrays[kind::4] for kind in range(4)), strict=True)
    ]
