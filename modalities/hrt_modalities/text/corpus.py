"""Corpora for language models: windows over concatenated documents.

A window reads its bytes from the files when it is requested, so a corpus may be larger than memory. Documents are files
or lines of JSONL, of which only the offsets are in memory.

Shapes: N documents.
"""

from __future__ import annotations

import logging
import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.files import special
from hrt_mm.data.folders import walk
from hrt_mm.data.sample import Sample
from hrt_mm.data.splits import Member, Splits

from ..common.splits import SPLITS, Part, check_split, hash_split
from .contents import PACKED_SUFFIXES
from .sources import DocumentSource, Files, files_source, lines_source
from .text import Text

log = logging.getLogger(__name__)

_CONTEXT_BYTES = 3
"""Bytes that are read on both sides of a window to complete characters, as the longest has 4 bytes."""
_INSTALLED = ("site-packages", "dist-packages")


class Corpus(Dataset):
    """Windows over documents, each of which begins with a separator.

    In training, windows are evenly spaced and shifted by up to a window at random. Otherwise they are consecutive and
    overlap by one token, so that every token but the first is predicted exactly once. With subwords they overlap by one
    character, of which the later window predicts only the last subword, so the same holds.

    Args:
        source: the documents.
        context: tokens of a window, where tokens are bytes.
        training: shift windows at random.
    """

    def __init__(self, source: DocumentSource, context: int, *, training: bool) -> None:
        self.source, self.context, self.training = source, context, training
        # In the stream of tokens, a document is its separator followed by its bytes.
        self.ends = np.cumsum(source.sizes + 1)
        self.total = int(self.ends[-1]) if len(self.ends) else 0

    def __len__(self) -> int:
        if self.training:
            return max(1, self.total // self.context)
        return max(1, -(-(self.total - 1) // (self.context - 1)))

    def __getitem__(self, index: int) -> Sample:
        """A window.

        Raises:
            BadSample: one of its files cannot be read.
        """
        if self.training:
            shift = int(torch.randint(self.context, ()))
            start = max(0, min(index * self.context + shift, self.total - self.context))
        else:
            start = index * (self.context - 1)
        end = min(start + self.context, self.total)
        document = self._document_at(start)
        # The separator counts as offset 0.
        offset = max(0, start - int(self.ends[document] - self.source.sizes[document]))
        return Sample(self._window(start, end), None, f"{self.source.names[document]}@{offset}")

    def shape(self, index: int) -> Sequence[int]:
        """(tokens, 0)."""
        start = 0 if self.training else index * (self.context - 1)
        return min(self.context, self.total - start), 0

    def _document_at(self, position: int) -> int:
        """The document at a position of the stream."""
        return int(np.searchsorted(self.ends, position, side="right"))

    def _window(self, start: int, end: int) -> Text:
        """The text between two positions of the stream."""
        parts: list[bytes] = []
        documents: list[int] = []
        length, around = 0, (b"", b"")
        for document in range(self._document_at(start), len(self.ends)):
            # The document's bytes are begin to its end in the stream; its separator is at begin - 1.
            begin = int(self.ends[document] - self.source.sizes[document])
            if begin - 1 >= end:
                break
            if begin - 1 >= start:
                documents.append(length)
            first, last = max(start, begin), min(end, int(self.ends[document]))
            if last > first:
                low, high = max(begin, first - _CONTEXT_BYTES), min(int(self.ends[document]), last + _CONTEXT_BYTES)
                raw = self.source.read(document, low - begin, high - begin)
                parts.append(raw[first - low : last - low])
                around = around[0] or raw[: first - low], raw[last - low :]
                length += last - first
        return Text(b"".join(parts), tuple(documents), around=around)


class CorpusConfig(DatasetConfig):
    """Documents for language models; the sources of Python's standard library when no files are named."""

    # A large JSONL file must be read to count its lines.
    lists_quickly = False

    type: Literal["corpus"]
    files: tuple[Path, ...] = ()
    """Files and folders, a document a file; ``.jsonl`` and ``.ndjson`` files, also in folders, have a document a line.
    Text may be compressed (``.gz``, ``.bz2``, ``.xz``, ``.zst``), or in UTF-16 with a byte order mark."""
    suffixes: tuple[str, ...] = ()
    """Endings of the files that count in folders, such as ``.txt``; all when empty."""
    text_key: str = "text"
    """Key of the text in a line of JSONL."""
    raw_bytes: bool = False
    """Read all files as bytes, to model data other than text. Otherwise compressed text is decompressed and UTF-16
    decoded; files that are not text are an error if named, and left out in folders."""
    val_files: tuple[Path, ...] = ()
    """Files and folders of the validation split."""
    test_files: tuple[Path, ...] = ()
    """Files and folders of the test split."""
    val: Part | None = 0.05
    """Fraction of the documents for validation, chosen by a hash of their paths in ``files``; null for none. Has no
    effect with ``val_files``, and is refused there."""
    test: Part | None = 0.05
    """Fraction of the documents for testing, likewise."""
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the hash."""
    context: PositiveInt = 2048
    """Tokens of a window where tokens are bytes. Other tokenizers get texts of as many bytes."""

    @model_validator(mode="after")
    def _possible(self) -> CorpusConfig:
        if self.context < 2:
            raise ValueError(f"context {self.context} leaves nothing to predict; it must be 2 or more")
        if (self.val_files or self.test_files) and not self.files:
            raise ValueError("val_files and test_files need files, for training")
        files = (*self.files, *self.val_files, *self.test_files)
        lines = any(_is_lines(file) for file in files)
        if self.text_key != "text" and not lines and not any(file.is_dir() for file in files):
            raise ValueError(f"text_key {self.text_key} has no effect without a .jsonl file; drop it")
        if self.suffixes and (lines or not files):
            raise ValueError(f"suffixes {', '.join(self.suffixes)} have no effect without folders in files; drop them")
        if self.raw_bytes and (lines or not files):
            raise ValueError("raw_bytes has no effect without files and folders of other kinds than .jsonl; drop it")
        for name, split_files in (("val", self.val_files), ("test", self.test_files)):
            part = getattr(self, name)
            if split_files and part is not None and name in self.model_fields_set:
                raise ValueError(
                    f"{name} {part:g} has no effect beside {name}_files; drop one of them. Where a file that this one "
                    f"extends gives {name}, write {name}: null"
                )
        val, test = self._parts()
        if not val + test and self.split_seed:
            raise ValueError(f"split_seed {self.split_seed} has no effect, as no documents are split off; drop it")
        if val + test >= 1:
            raise ValueError(f"val {val:g} and test {test:g} leave nothing to train on")
        return self

    def build(self, split: str) -> Corpus:
        """The windows of a split.

        Raises:
            ConfigError: a file or folder is missing or empty, or the split is empty.
        """
        check_split(split)
        source = self._source(split)
        if not len(source.sizes):
            none = split != "train" and getattr(self, split) is None
            why = f"as data.{split} is null; set it" if none else "by a hash of their names; give more documents"
            fix = "" if split == "train" else f", or set data.{split}_files"
            raise ConfigError(f"data.files have no document for the {split} split, {why}{fix}")
        return Corpus(source, self.context, training=split == "train")

    def splits(self) -> Splits:
        """The documents of each split."""
        members = {}
        for split in SPLITS:
            source = self._source(split)
            home = source.root if isinstance(source, Files) else None
            files = [None if home is None else os.path.join(home, name) for name in source.names]
            members[split] = [Member(name, file=file) for name, file in zip(source.names, files, strict=True)]
        made_by = f"by a hash of the paths of documents, data.split_seed {self.split_seed}"
        for split in (split for split in ("val", "test") if getattr(self, f"{split}_files")):
            made_by += f"; {split} by data.{split}_files"
        return Splits(members, made_by)

    def _source(self, split: str) -> DocumentSource:
        split_files = {"val": self.val_files, "test": self.test_files}.get(split)
        where = f"data.{split}_files" if split_files else "data.files"
        source = documents(split_files or self.files, self.suffixes, self.text_key, where, self.raw_bytes)
        if split_files or split == "train":
            warn_of_left_out(source, where)
        if split_files:
            return source
        val, test = self._parts()
        chosen = [n for n, key in enumerate(source.keys) if hash_split(key, val, test, self.split_seed) == split]
        return source.select(np.array(chosen, dtype=np.int64))

    def _parts(self) -> tuple[float, float]:
        """The fractions of ``files`` for validation and for testing."""
        return 0.0 if self.val_files else self.val or 0.0, 0.0 if self.test_files else self.test or 0.0


def warn_of_left_out(source: DocumentSource, where: str) -> None:
    """Warns of documents that were left out because they are empty or no text, and of those that are not UTF-8."""
    if source.no_text:
        count = len(source.no_text)
        what = "1 file is" if count == 1 else f"{count} files are"
        first = source.no_text[0] if count == 1 else f"the first is {source.no_text[0]}"
        log.warning("%s: %s no text and left out; %s", where, what, first)
    if source.not_utf8:
        count = len(source.not_utf8)
        what = "1 file is" if count == 1 else f"{count} files are"
        first = source.not_utf8[0] if count == 1 else f"the first is {source.not_utf8[0]}"
        log.warning(
            "%s: %s not UTF-8; the bytes stay as they are, and subwords take them for U+FFFD; %s", where, what, first
        )
    if source.empty:
        count = len(source.empty)
        what = "1 document is" if count == 1 else f"{count} documents are"
        more = "" if count == 1 else " is the first"
        log.warning("%s: %s empty and left out; %s%s", where, what, source.empty[0], more)


def documents(
    files: Sequence[Path],
    suffixes: Sequence[str] = (),
    key: str = "text",
    where: str = "data.files",
    raw_bytes: bool = False,
) -> DocumentSource:
    """The documents of files and folders, as :class:`CorpusConfig` names them.

    Args:
        files: those of Python's standard library when none.
        suffixes: of the files that are read in folders; all when none.
        key: of the text in a line of JSONL.
        where: the setting that names the files, for messages.
        raw_bytes: read files as bytes, whatever they are.

    Raises:
        ConfigError: one is missing, empty or not text.
    """
    if not files:
        root = Path(sysconfig.get_paths()["stdlib"])
        inside = sorted(root / name for name in walk(root, (".py",), skipped=_INSTALLED).files)
        source = files_source([(root, path) for path in inside], where, root, raw_bytes=True)
        # The standard library has empty files.
        source.empty = ()
        return source
    if (lines := list(filter(_is_lines, files))) and len(lines) != len(files):
        raise ConfigError(f"{where} mix {lines[0]} with other kinds; give JSONL alone, or none")
    for file in files:
        if not file.exists():
            raise ConfigError(f"{where} {file}: no such file or folder")
        if not file.is_dir() and (kind := special(file.stat().st_mode)):
            raise ConfigError(f"{where} {file} is {kind}, not a file or folder")
    paths: list[tuple[Path, Path]] = []
    for file in files:
        home = file if file.is_dir() else file.parent
        inside = [file]
        if file.is_dir():
            listing = walk(file, suffixes or None, files_outside=False, advice="name that folder in files")
            listing.warn(log, f"{where} {file}", unread=False)
            inside = sorted(file / name for name in listing.files)
        if not inside:
            kind = f" that ends in {' or '.join(suffixes)}" if suffixes else ""
            raise ConfigError(f"{where} {file} has no file{kind}")
        paths += [(home, path) for path in inside]
    if not raw_bytes and (lines := [path for _, path in paths if _is_lines(path)]):
        if other := next((path for _, path in paths if not _is_lines(path)), None):
            raise ConfigError(
                f"{where} mix {lines[0]} with other kinds, such as {other}; give JSONL alone, or none. In folders "
                "data.suffixes chooses"
            )
        return lines_source(lines, key, where)
    return files_source(paths, where, named=frozenset(files), raw_bytes=raw_bytes)


def _is_lines(file: Path) -> bool:
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    if suffixes[-1:] and suffixes[-1] in PACKED_SUFFIXES:
        suffixes = suffixes[:-1]
    return suffixes[-1:] in ([".jsonl"], [".ndjson"])
