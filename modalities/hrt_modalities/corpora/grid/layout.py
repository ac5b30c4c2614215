"""GRID's tables: sentences, and the times of their words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.time_span import TimeSpan

from ...audio.intervals import SILENCE, check_order
from ...common.folders import need_root
from ...common.tables import Row, read_rows, seconds_of, split_of
from ..fsdd import phonemes

_PAUSE = "sp"
"""GRID's label of a short silence between words."""


@dataclass(frozen=True)
class Sentence:
    """A sentence.

    Args:
        row: of ``index.tsv``.
        split: of the sentence.
        words: and silences, in order of time.
        spoken: its phonemes from the dictionary, without stress, if requested.
    """

    row: Row
    split: str
    words: tuple[TimeSpan, ...]
    spoken: tuple[str, ...]


def sentences(root: Path, file: str, *, spoken: bool = False) -> Iterator[Sentence]:
    """The sentences of a folder.

    Args:
        root: has ``index.tsv`` and ``words.tsv``.
        file: the column of the files.
        spoken: also read phonemes.

    Raises:
        ConfigError: the data is missing or broken; names the row.
    """
    need_root(root, "index.tsv")
    need_root(root, "words.tsv")
    words, phones = _words(root / "words.tsv", spoken)
    columns = ("id", file, "sentence", "split")
    for number, row in read_rows(root / "index.tsv", columns, "the columns of GRID's index"):
        location, name = f"{root}/index.tsv:{number}", row["id"]
        if name not in words:
            raise ConfigError(f"{location}: {name!r} has no words in words.tsv")
        check_order(words[name], f"{root}/words.tsv", name)
        yield Sentence(row, split_of(row, "split", location), tuple(words[name]), tuple(phones.get(name, ())))


def _words(table: Path, spoken: bool) -> tuple[dict[str, list[TimeSpan]], dict[str, list[str]]]:
    """By sentence, its words and silences in order of time, and its phonemes."""
    words: dict[str, list[TimeSpan]] = {}
    phones: dict[str, list[str]] = {}
    columns = ("id", "word", "start_s", "end_s", *(("arpabet_canonical",) if spoken else ()))
    for number, row in read_rows(table, columns, "the columns of GRID's words"):
        location = f"{table}:{number}"
        start, end = (seconds_of(row, column, location) or 0.0 for column in ("start_s", "end_s"))
        silent = row["word"] in (SILENCE, _PAUSE)
        words.setdefault(row["id"], []).append(TimeSpan(start, end, SILENCE if silent else row["word"]))
        if spoken and not silent:
            phones.setdefault(row["id"], []).extend(phonemes(row["arpabet_canonical"]))
    return words, phones
