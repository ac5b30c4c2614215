"""Python Enhancement Proposals: long documents with their sections, paragraphs and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hrt_mm.core.errors import ConfigError
from hrt_mm.data.dataset import Dataset, DatasetConfig
from hrt_mm.data.sample import Sample

from ..common.splits import check_classes, check_split
from ..common.tables import read_rows, split_of
from ..text.text import Text

_NO_TOPIC = "none"
_KINDS: tuple[str, ...] = ("sections", "paragraphs", "sentences")


class Peps(Dataset):
    """Whole documents. Texts have the boundaries ``sections``, ``paragraphs`` and ``sentences``.

    Args:
        rows: names, labels and texts.
        classes: of the training split.
    """

    def __init__(self, rows: Sequence[tuple[str, str, Text]], classes: tuple[str, ...]) -> None:
        self.rows = rows
        self.classes = classes

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        name, label, text = self.rows[index]
        return Sample(text, label, name)

    def name(self, index: int) -> str:
        """The number of the document."""
        return self.rows[index][0]

    def class_of(self, index: int) -> str:
        """The document's class."""
        return self.rows[index][1]

    def shape(self, index: int) -> Sequence[int]:
        """(bytes, 0)."""
        return len(self.rows[index][2].content.encode()), 0  # type: ignore[union-attr]


class PepsConfig(DatasetConfig):
    """Python Enhancement Proposals at full length, with their type, status or topic as the class."""

    type: Literal["peps"]
    root: Path
    """Folder with ``peps.jsonl``, which has one document per line with labels, split and nested sections."""
    label: Literal["type", "status", "topic"] = "type"
    """The label: of several topics the first one, and ``none`` without a topic."""

    def build(self, split: str) -> Peps:
        """The documents of a split.

        Raises:
            ConfigError: the file is missing or broken, the split is empty, or it has a class that train has not.
        """
        check_split(split)
        file = self.root / "peps.jsonl"
        if not file.is_file():
            raise ConfigError(f"data.root {self.root} holds no peps.jsonl")
        rows: dict[str, list[tuple[str, str, Text]]] = {}
        for number, row in read_rows(
            file, ["pep", "title", self.label, "split", "sections"], "data.label, or mend the file"
        ):
            location = f"{file}:{number}"
            side = split_of(row, "split", location)
            try:
                # Of other splits only the labels are needed.
                text = _text(row) if side == split else Text("")
                label = row[self.label].split(",")[0].strip() or _NO_TOPIC
            except (KeyError, TypeError, AttributeError) as error:
                raise ConfigError(
                    f"{location} is not laid out as sections, paragraphs and sentences: {error!r}"
                ) from error
            rows.setdefault(side, []).append((f"PEP {row['pep']}", label, text))
        if not rows.get(split) or not rows.get("train"):
            counts = ", ".join(f"{name}: {len(documents)}" for name, documents in rows.items()) or "none"
            raise ConfigError(f"{file} has no documents for split {split!r}; it has {counts}")
        classes = tuple(sorted({label for _, label, _ in rows["train"]}))
        check_classes(classes, (label for _, label, _ in rows[split]), f"{split} of {file}")
        return Peps(rows[split], classes)


def _text(row: Mapping[str, Any]) -> Text:
    """A document: its title, and the titles and paragraphs of its sections, separated by empty lines."""
    parts: list[str] = []
    starts: dict[str, list[int]] = {kind: [] for kind in _KINDS}
    length = 0
    for kinds, piece in _pieces(row):
        if parts:
            gap = "\n\n" if "paragraphs" in kinds else " "
            parts.append(gap)
            length += len(gap)
        for kind in kinds:
            starts[kind].append(length)
        parts.append(piece)
        length += len(piece)
    return Text("".join(parts), boundaries={kind: tuple(offsets) for kind, offsets in starts.items()})


def _pieces(row: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The sentences in order, each with the boundaries that start there."""
    section, paragraph, sentence = _KINDS, _KINDS[1:], _KINDS[2:]
    if row["title"]:
        yield section, row["title"]
    for part in row["sections"]:
        kinds = section
        if part["title"]:
            yield kinds, part["title"]
            kinds = paragraph
        for block in part["paragraphs"]:
            for piece in filter(None, block["sentences"]):
                yield kinds, piece
                kinds = sentence
            if kinds == sentence:
                kinds = paragraph
